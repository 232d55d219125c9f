// CPU entry points of `pairwise_kernel`; see csrc/normality/pairwise_kernel.h for the mathematics.
#pragma once
#include <cstdint>

#include "normality/radial_kind.h"
#include "simd/isa.h"

namespace sslspec::cpu {

template <typename T>
struct PairwiseKernelArgs {
  const T* z;  // [views, n, d] strides ldv, ldz
  int64_t ldv, ldz, views, n, d;
  const double *lengths, *offsets, *slopes;  // [views, n]
  int64_t first, count;                      // the rows whose pairs are taken
  RadialKind radial;
  double parameter;
  const double* table;  // [2, terms]
  int64_t terms;
  double at_zero, factor;
  double* values;  // [views]
  T* grad;         // [views, count, d] contiguous, or null
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T>
                 int64_t pairwise_kernel_workspace(int64_t views, int64_t n, int64_t count, int64_t d, bool backward);
                 template <typename T> void pairwise_kernel_lengths(const T* z, int64_t ldv, int64_t ldz, int64_t views,
                                                                    int64_t n, int64_t d, double* out, int threads);
                 template <typename T> void pairwise_kernel(const PairwiseKernelArgs<T>& args);)

}  // namespace sslspec::cpu

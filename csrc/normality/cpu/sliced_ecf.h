// CPU entry points of `sliced_ecf`; see csrc/normality/sliced_ecf.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

template <typename T>
struct SlicedEcfArgs {
  const T* z;  // [views, n, d] strides ldv, ldz
  int64_t ldv, ldz, views, n, d;
  const T* directions;  // [d, count] row stride lda
  int64_t lda, count;
  const double *weights, *targets;  // [knots]
  int64_t knots;
  double step, factor;
  double* values;              // [views]
  double* sums;                // [views, 2 knots, count]: the sums instead of values, or null
  const double* coefficients;  // the same shape: grad for these instead of those of the distance, or null
  T* grad;                     // [views, n, d] contiguous, or null
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T>
                 int64_t sliced_ecf_workspace(int64_t views, int64_t n, int64_t d, int64_t directions);
                 template <typename T> void sliced_ecf(const SlicedEcfArgs<T>& args);)

}  // namespace sslspec::cpu

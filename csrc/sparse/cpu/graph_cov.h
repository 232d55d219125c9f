// CPU entry points of the `graph_cov` primitive; see csrc/sparse/graph_cov.h for the mathematics.
#pragma once
#include "simd/isa.h"
#include "sparse/cpu/csr.h"

namespace sslspec::cpu {

template <typename T>
struct GraphCovArgs {
  SparseArgs<T> a;  // a.upper: A is symmetric, y is x, and only entries j >= i are read
  const T* x;       // [n, d] row stride ldx
  int64_t ldx, d;
  const T* y;  // [columns of A, e] row stride ldy
  int64_t ldy, e;
  T* out;    // [d, e] contiguous
  T* slots;  // [graph_cov_slots][d, e] partial sums
  int threads;
};

template <typename T>
struct GraphCovApplyArgs {
  SparseArgs<T> a;
  const T* y;  // [columns of A, e] row stride ldy
  int64_t ldy, e;
  const T* m;  // [e, d] row stride ldm
  int64_t ldm, d;
  const T *u, *v;  // [n], [d], or both null
  T* panels;       // workspace of graph_cov_apply_workspace values
  T* out;          // [n, d] row stride ldo
  int64_t ldo;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> int64_t graph_cov_slots(int64_t n, int64_t d, int64_t e);
                 template <typename T> void graph_cov(const GraphCovArgs<T>& args);
                 template <typename T> int64_t graph_cov_apply_workspace(int64_t e, int64_t d);
                 template <typename T> void graph_cov_apply(const GraphCovApplyArgs<T>& args);)

}  // namespace sslspec::cpu

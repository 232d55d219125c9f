// CPU entry point of the `spmm` primitive; see csrc/sparse/spmm.h for the mathematics.
#pragma once
#include "simd/isa.h"
#include "sparse/cpu/csr.h"

namespace sslspec::cpu {

template <typename T>
struct SpmmArgs {
  SparseArgs<T> a;
  const T* x;  // [columns of A, b] row stride ldx
  int64_t ldx, b;
  const T* own;  // [n, b] row stride ldo, or null: sums of own_i - x_j instead of x_j
  int64_t ldo;
  const T* row_scale;  // [n] factor of finished rows, or null
  const T* w;          // [n, b] row stride ldw, or null
  int64_t ldw;
  const T* diagonal;  // [n] or null: W counts gamma + delta * diagonal_i
  T* y;               // [n, b] row stride ldy
  int64_t ldy;
  T alpha, beta, gamma, delta;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> void spmm(const SpmmArgs<T>& args);)

}  // namespace sslspec::cpu

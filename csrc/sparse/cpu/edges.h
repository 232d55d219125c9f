// CPU entry point of the `edges` primitive; see csrc/sparse/edges.h for the mathematics.
#pragma once
#include "simd/isa.h"
#include "sparse/cpu/csr.h"

namespace sslspec::cpu {

template <typename T>
struct EdgesArgs {
  SparseArgs<T> a;
  const T* x;  // [n, d] row stride ldx
  int64_t ldx;
  const T* y;  // [columns of A, d] row stride ldy
  int64_t ldy, d;
  T* out;  // [n], one per entry for edge_values
  bool squared;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> void edges(const EdgesArgs<T>& args);
                 template <typename T> void edge_values(const EdgesArgs<T>& args);)

}  // namespace sslspec::cpu

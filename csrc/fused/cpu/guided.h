// CPU entry points of softmax rows whose negatives a guide selects; see csrc/fused/guided.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

struct GuidedSizes {
  int64_t n, l, d, e;
  int64_t rows(int side) const { return side < 2 ? n : l; }
};

template <typename T>
struct GuidedArgs {
  struct Side {
    const T* x;  // [rows, d] row stride ldx
    int64_t ldx;
    const T* guide;  // [rows, e] row stride ldg
    int64_t ldg;
    T* grad;  // [rows, d] contiguous, or null
  };
  GuidedSizes size;
  Side sides[3];  // queries, keys, negatives (without rows: none)
  int directions;
  bool backward;                       // a side has a gradient
  const T* scale;                      // [1]
  const T *bound, *positive, *weight;  // [n]
  T *rows, *grad_positive;             // [n] out
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> int64_t guided_workspace(const GuidedSizes& size, bool backward);
                 template <typename T> void guided(const GuidedArgs<T>& args);)

}  // namespace sslspec::cpu

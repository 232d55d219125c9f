// CPU entry points of the `moments` primitive; see csrc/rows/moments.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

inline constexpr int64_t kMomentsRows = 1024;  // rows of one partial result

struct Bfloat16;  // simd/bfloat16.h

template <typename T, typename Value = T>
struct MomentsArgs {
  int operands;  // 1: x; 2: x, y and x - y or (product) their covariance
  bool product;
  const Value* x[2];  // [n, d] row stride ld
  int64_t ld[2];
  int64_t n, d;
  T* mean;  // [statistics, d] contiguous, statistics = 1 or 3
  T* var;   // [statistics, d] contiguous
  T* workspace;
  int threads;
};

template <typename T>
struct MomentsBackwardArgs {
  const T* x;  // [n, d] row stride ld
  int64_t ld, n, d;
  const T *mean, *grad_mean, *grad_var;  // [d]
  T* grad;                               // [n, d] contiguous
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T, typename Value> void moments_forward(const MomentsArgs<T, Value>& args);
                 template <typename T> void moments_backward(const MomentsBackwardArgs<T>& args);)

}  // namespace sslspec::cpu

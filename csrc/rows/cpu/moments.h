// CPU entry points of the `moments` primitive; see csrc/rows/moments.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

inline constexpr int64_t kMomentsRows = 1024;  // rows of one partial result

template <typename T>
struct MomentsArgs {
  int operands;  // 1: x; 2: x, y and x - y or (product) their covariance
  bool product;
  const T* x[2];  // [n, d] row stride ld
  int64_t ld[2];
  int64_t n, d;
  T* mean;  // [statistics, d] contiguous, statistics = 1 or 3
  T* var;   // [statistics, d] contiguous
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> void moments_forward(const MomentsArgs<T>& args); template <typename T>
                 void moments_backward(const T* x, int64_t ld, int64_t n, int64_t d, const T* mean, const T* grad_mean,
                                       const T* grad_var, T* grad, int threads);)

}  // namespace sslspec::cpu

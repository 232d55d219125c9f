// CPU entry points of the two-view rows; see csrc/fused/two_views.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

template <typename T>
struct TwoViewsArgs {
  const T* z[2];  // [n, d] row stride ldz
  int64_t ldz[2];
  int64_t n, d;
  const T* scale;  // [1]
  T* u;            // [2 n, d] contiguous
  T* norm;         // [2 n]
  T* negatives;    // [2 n]
  T* rows;         // [2 n] forward only
  const T* grad;   // [2 n] and below: backward only
  T* grad_z;       // [2 n, d] contiguous
  T* grad_scale;   // [1]
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> int64_t two_views_workspace(int64_t n, int64_t d, bool backward);
                 template <typename T> void two_views_forward(const TwoViewsArgs<T>& args);
                 template <typename T> void two_views_backward(const TwoViewsArgs<T>& args);)

}  // namespace sslspec::cpu

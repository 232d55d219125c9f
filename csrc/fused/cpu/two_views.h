// Passes over the rows of two views, before and after `pairwise`; see csrc/fused/two_views.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

template <typename T>
struct TwoViewsArgs {
  const T* z[2];  // [n, d] row stride ldz
  int64_t ldz[2];
  int64_t n, d;
  const T* scale;     // [1]
  T* u;               // [2 n, d] contiguous
  uint16_t* half;     // [2 n, d] or null: u in bfloat16
  T* norm;            // [2 n]
  T* negatives;       // [2 n]
  T* rows;            // [2 n] forward only
  const T* grad;      // [2 n] and below: backward only
  T *weight, *along;  // [2 n]
  T* grad_z;          // [2 n, d] contiguous
  T* grad_scale;      // [1]
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> void views_unit_rows(const TwoViewsArgs<T>& args);
                 template <typename T> void views_losses(const TwoViewsArgs<T>& args);
                 template <typename T> void views_weights(const TwoViewsArgs<T>& args);
                 template <typename T> void views_gradient(const TwoViewsArgs<T>& args);)

}  // namespace sslspec::cpu

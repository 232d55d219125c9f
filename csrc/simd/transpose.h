// Transposition of kLanes x kLanes values in registers: log2(kLanes) rounds of exchanges. Included by *.kernel.cpp
// only.
#pragma once
#include <utility>

#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SSLSPEC_SHUFFLE 1
#endif
#endif

#ifdef SSLSPEC_SHUFFLE
template <int D, bool kHigh, typename V, int... I>
inline __attribute__((always_inline)) V exchange(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
  return __builtin_shufflevector(a, b, (kHigh ? (I & D ? L + I : I + D) : (I & D ? L + I - D : I))...);
}
template <typename T, int D = kLanes<T> / 2>
inline __attribute__((always_inline)) void transpose(Vec<T> (&m)[kLanes<T>]) {
  using Lanes = std::make_integer_sequence<int, kLanes<T>>;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i & D) continue;
    const Vec<T> low = exchange<D, false>(m[i], m[i + D], Lanes{});
    m[i + D] = exchange<D, true>(m[i], m[i + D], Lanes{});
    m[i] = low;
  }
  if constexpr (D > 1) transpose<T, D / 2>(m);
}
#else
template <typename T>
void transpose(Vec<T> (&m)[kLanes<T>]) {
  for (int i = 0; i < kLanes<T>; ++i)
    for (int j = 0; j < i; ++j) {
      const T value = m[i][j];
      m[i][j] = m[j][i];
      m[j][i] = value;
    }
}
#endif

}  // namespace
}  // namespace sslspec::cpu

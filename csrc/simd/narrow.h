// Exponentials of logits, and the range in which they need no shift. Included by *.kernel.cpp and *.bf16.cpp only.
#pragma once
#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

constexpr double kLog2e = 1.4426950408889634074;
template <typename T>
constexpr T kNegInf = -__builtin_inff();

// Of log-sum-exps. A bound r of the logits with r log2(e) below this keeps the exponentials, their sums over 2^40 pairs
// and the weights normal numbers without a shift ("narrow").
template <typename T>
constexpr double kNarrowRange = sizeof(T) == 4 ? 60.0 : 500.0;
template <typename T>
inline bool is_narrow(double bound) {  // of the logits; false for NaN
  return bound * kLog2e < kNarrowRange<T>;
}
template <typename T>
constexpr T kLowestShift = static_cast<T>(sizeof(T) == 4 ? -1e38 : -1e300);  // below every logit, and not -inf

// 2^x in the narrow range: a normal number, but for pairs that are left out (x = -inf), which plain tiles do not hold
template <typename T, bool kNormal>
inline __attribute__((always_inline)) Vec<T> narrow_power(Vec<T> x) {
  if constexpr (kNormal)
    return exp2_normal<T>(x);
  else
    return exp2<T>(x);
}

}  // namespace
}  // namespace sslspec::cpu

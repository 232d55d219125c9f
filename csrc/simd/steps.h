// What the operands of a product hold in one step of its sum: a number, or (simd/bf16/pairs.h) two of bfloat16.
// Included by *.kernel.cpp only.
#pragma once
#include "simd/tile.h"

namespace sslspec::cpu {
namespace {

template <typename Op>
struct Steps;

template <typename Number>
struct Steps<Exact<Number>> {
  using T = Number;
  using Value = Number;               // one number as it is multiplied
  static constexpr int kNumbers = 1;  // of one step

  static constexpr int64_t of(int64_t numbers) { return numbers; }
  // A register of steps: from kNumbers neighbouring registers of one row, or from the same columns of kNumbers rows.
  static inline __attribute__((always_inline)) Vec<T> along(const Vec<T> (&v)[1]) { return v[0]; }
  static inline __attribute__((always_inline)) Vec<T> across(const Vec<T> (&v)[1]) { return v[0]; }
  static Value round(T x) { return x; }
  static T join(const Value (&v)[1]) { return v[0]; }
  // x as it is multiplied, in `memory` unless x is that already; count is a multiple of 2 kLanes
  static const Value* rounded(const T* x, int64_t, Value*) { return x; }
};

}  // namespace
}  // namespace sslspec::cpu

// Products of bfloat16 numbers on processors that have them (AVX512-BF16). Included by *.bf16.cpp only.
//
// Two numbers that are neighbours along the sum fill the 32 bits of a float and are multiplied together: the panels,
// loops and tiles are those of float with half the steps, and nothing in between does arithmetic on such a pair.
//
// Precision policy: products of bfloat16 numbers are exact and added up in float; rounding is to nearest, ties to even.
#pragma once
#include <immintrin.h>

#include "simd/steps.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

struct Pairs {
  using T = float;
  static inline __attribute__((always_inline)) Vec<float> broadcast(const float* a) {
    int32_t bits;
    std::memcpy(&bits, a, sizeof(bits));
    return (Vec<float>)_mm512_set1_epi32(bits);
  }
  static inline __attribute__((always_inline)) void add(Vec<float>& sum, Vec<float> a, Vec<float> b) {
    sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};

inline uint32_t pair(uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; }

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA

namespace sslspec::cpu {
namespace {

template <>
struct Steps<SSLSPEC_ISA::Pairs> {
  using T = float;
  using Value = uint16_t;
  static constexpr int kNumbers = 2;

  static constexpr int64_t of(int64_t numbers) { return (numbers + 1) / 2; }
  static inline __attribute__((always_inline)) Vec<float> along(const Vec<float> (&v)[2]) {
    return (Vec<float>)_mm512_cvtne2ps_pbh((__m512)v[1], (__m512)v[0]);
  }
  static inline __attribute__((always_inline)) Vec<float> across(const Vec<float> (&v)[2]) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Vec<float>)_mm512_permutexvar_epi16(interleave, (__m512i)along(v));
  }
  static Value round(float x) {
    return static_cast<Value>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0));
  }
  static float join(const Value (&v)[2]) {
    const uint32_t bits = SSLSPEC_ISA::pair(v[0], v[1]);
    float both;
    std::memcpy(&both, &bits, sizeof(both));
    return both;
  }
  static const Value* rounded(const float* x, int64_t count, Value* memory) {
    constexpr int L = kLanes<float>;
    for (int64_t k = 0; k < count; k += 2 * L) {
      const Vec<float> both = along({load(x + k), load(x + k + L)});
      std::memcpy(memory + k, &both, sizeof(both));
    }
    return memory;
  }
};

}  // namespace
}  // namespace sslspec::cpu

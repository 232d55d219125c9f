// Rows that lie in memory as bfloat16, the upper half of a float, and are computed with in float. Included by
// *.kernel.cpp and *.bf16.cpp only.
//
// Precision policy: widening is exact; rounding is to nearest, ties to even, and NaN of any bits stays NaN.
#pragma once
#include "simd/vec.h"

namespace sslspec::cpu {

struct Bfloat16 {
  uint16_t bits;
};

namespace {

inline float widened(Bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline float widened(float x) { return x; }
inline double widened(double x) { return x; }

inline void round_to(Bfloat16& out, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  out.bits = x != x ? uint16_t{0x7fc0} : static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

typedef uint16_t HalfBits __attribute__((vector_size(kVecBytes / 2)));

// A register of rows of any type, in float (double).
inline __attribute__((always_inline)) Vec<float> load_wide(const Bfloat16* p) {
  HalfBits half;
  std::memcpy(&half, p, sizeof(half));
  const VecBits<float> bits = __builtin_convertvector(half, VecBits<float>) << 16;
  Vec<float> v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}
inline __attribute__((always_inline)) Vec<float> load_wide(const float* p) { return load(p); }
inline __attribute__((always_inline)) Vec<double> load_wide(const double* p) { return load(p); }

inline __attribute__((always_inline)) void store_rounded(Bfloat16* p, Vec<float> v) {
  VecBits<float> bits;
  std::memcpy(&bits, &v, sizeof(bits));
  const VecBits<float> nearest = bits + 0x7fffu + (bits >> 16 & 1u);
  const HalfBits half = __builtin_convertvector((v != v ? VecBits<float>{} + 0x7fc00000u : nearest) >> 16, HalfBits);
  std::memcpy(p, &half, sizeof(half));
}

// d numbers of a row in float (double): x itself, or a copy in `memory`.
template <typename T>
inline const T* wide_row(const T* x, int64_t, T*) {
  return x;
}
inline const float* wide_row(const Bfloat16* x, int64_t d, float* memory) {
  constexpr int L = kLanes<float>;
  int64_t k = 0;
  for (; k + L <= d; k += L) store(memory + k, load_wide(x + k));
  for (; k < d; ++k) memory[k] = widened(x[k]);
  return memory;
}
inline void round_row(const float* x, int64_t d, Bfloat16* out) {
  constexpr int L = kLanes<float>;
  int64_t k = 0;
  for (; k + L <= d; k += L) store_rounded(out + k, load(x + k));
  for (; k < d; ++k) round_to(out[k], x[k]);
}

}  // namespace
}  // namespace sslspec::cpu

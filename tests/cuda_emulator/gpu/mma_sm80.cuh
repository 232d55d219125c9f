// Host stand-in for csrc/gpu/mma_sm80.cuh, written from the fragment layouts of the PTX manual.
#pragma once
#include <cuda_bf16.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "gpu/copy.cuh"

namespace sslspec::cuda {

inline const unsigned char* matrix_row(const unsigned char* slots, int row) {
  const unsigned char* p;
  std::memcpy(&p, slots + 128 * row, sizeof p);
  return p;
}

inline void ldmatrix(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) std::abort();
  const unsigned char* slots = emulator::publish(&row, sizeof row);
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int q = 0; q < 4; ++q) std::memcpy(&r[q], matrix_row(slots, q * 8 + g) + 4 * t, 4);
  emulator::warp_barrier();
}

inline void ldmatrix_transposed(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) std::abort();
  const unsigned char* slots = emulator::publish(&row, sizeof row);
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int q = 0; q < 4; ++q) {
    uint16_t low, high;
    std::memcpy(&low, matrix_row(slots, q * 8 + 2 * t) + 2 * g, 2);
    std::memcpy(&high, matrix_row(slots, q * 8 + 2 * t + 1) + 2 * g, 2);
    r[q] = low | static_cast<uint32_t>(high) << 16;
  }
  emulator::warp_barrier();
}

struct Fragments {
  uint32_t a[4], b[2];
};

inline float bf16_value(uint32_t word, int half) {
  const uint32_t bits = (half ? word >> 16 : word & 0xffffu) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float tf32_value(uint32_t word) {
  word &= 0xffffe000u;
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}

// C += A B with A row (g + 8 h) and B column 2t + e for this lane's four accumulators; kWide: 16 bf16, else 8 tf32.
template <bool kWide>
void multiply_fragments(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const unsigned char* slots = emulator::publish(&mine, sizeof mine);
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  auto at = [&](int lane) { return reinterpret_cast<const Fragments*>(slots + 128 * lane); };
  for (int e = 0; e < 4; ++e) {
    const int row = g + e / 2 * 8, col = 2 * t + e % 2;
    double sum = c[e];
    for (int k = 0; k < (kWide ? 16 : 8); ++k) {
      const int per = kWide ? 8 : 4, inner = k % per, in_lane = kWide ? inner / 2 : inner;
      const uint32_t wa = at(row % 8 * 4 + in_lane)->a[row / 8 + 2 * (k / per)];
      const uint32_t wb = at(col * 4 + in_lane)->b[k / per];
      sum += kWide ? double(bf16_value(wa, inner % 2)) * bf16_value(wb, inner % 2)
                   : double(tf32_value(wa)) * tf32_value(wb);
    }
    c[e] = static_cast<float>(sum);
  }
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_fragments<true>(c, a, b0, b1);
}
inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_fragments<false>(c, a, b0, b1);
}

inline uint32_t to_tf32(float x) {  // nearest, ties away from zero
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  return bits & 0xffffe000u;
}

inline float exp2_fast(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

}  // namespace sslspec::cuda

// Products of bfloat16 tiles on processors that have tile registers (AMX). Included by *.bf16.cpp only.
//
// A tile is 16 rows of 64 bytes. One instruction adds a product of 16 x 32 by 32 x 16 numbers to a tile of 16 x 16
// floats: the left tile holds 32 neighbours of each of its rows, the right one pairs of rows, [16 pairs][16 columns][2].
// Transposing a left tile as 16 x 16 pairs gives the right tile of the transposed matrix.
//
// Precision policy: products of bfloat16 numbers are exact and added up in float in a fixed order; subnormal numbers
// count as zero.
#pragma once
#ifdef __AMX_TILE__
#include "simd/bf16/pairs.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

constexpr int64_t kTileSide = 16;     // rows, columns of a product, and pairs of numbers along its sum
constexpr int64_t kTileFloats = 256;  // 1 KiB

// The eight registers of the thread as whole tiles, for the lifetime of the object. Their content is lost at its end.
// With `tail` pairs along a last step, tile 6 holds that many of a left operand and tile 7 that many rows of a right one.
class TileRegisters {
 public:
  explicit TileRegisters(int64_t tail = 0) {
    struct alignas(64) {
      uint8_t palette = 1, first_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    static_assert(sizeof(shapes) == 64, "what ldtilecfg reads");
    if (tail > 0) shapes.row_bytes[6] = static_cast<uint16_t>(4 * tail), shapes.rows[7] = static_cast<uint8_t>(tail);
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }
  ~TileRegisters() { asm volatile("tilerelease"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

template <int N>
inline __attribute__((always_inline)) void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(N));
}
// Rows of the tile are `stride` floats apart.
template <int N>
inline __attribute__((always_inline)) void load_tile(const float* from, int64_t stride = kTileSide) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(N), "r"(from), "r"(stride * 4) : "memory");
}
template <int N>
inline __attribute__((always_inline)) void store_tile(float* to, int64_t stride = kTileSide) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(N), "r"(to), "r"(stride * 4) : "memory");
}
// tile Sum += tile Left * tile Right
template <int Sum, int Left, int Right>
inline __attribute__((always_inline)) void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
}

// A left tile into the right one of the transposed matrix, and back; both may be the same memory. Rows of the first are
// `stride` floats apart, and those from `rows` on count as zeros.
inline void transpose_tile(const float* from, float* to, int64_t stride = kTileSide, int64_t rows = kTileSide) {
  Vec<float> m[kTileSide];
#pragma GCC unroll 16
  for (int i = 0; i < kTileSide; ++i) m[i] = i < rows ? load(from + i * stride) : Vec<float>{};
  transpose<float>(m);
#pragma GCC unroll 16
  for (int i = 0; i < kTileSide; ++i) store(to + i * kTileSide, m[i]);
}

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA
#endif

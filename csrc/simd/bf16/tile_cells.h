// Products of operands that lie in memory as pairs of bfloat16, in cells of 16 rows and up to 48 columns. Included by
// *.bf16.cpp only.
#pragma once
#ifdef __AMX_TILE__
#include "simd/bf16/tile_registers.h"
#include "simd/tail.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

// 16 rows of a left operand: rows `row` floats apart, its tiles `tile` floats apart.
struct TileLeft {
  const float* data;
  int64_t row, tile;
};
// Columns of a right operand: pairs `step` floats apart, groups of 16 columns `column` floats apart.
struct TileRight {
  const float* data;
  int64_t step, column = kTileSide;
};

// Tiles 0 ... W - 1 += one tile of the left operand times the right ones beside it, in the registers Left, Right and Next.
template <int W, int Left, int Right, int Next>
inline __attribute__((always_inline)) void multiply_step(const float* a, int64_t row, const float* b, TileRight right) {
  static_assert(W <= 3, "tiles 3, 4, 5 are operands");
  load_tile<Left>(a, row);
  load_tile<Right>(b, right.step);
  multiply_tiles<0, Left, Right>();
  if constexpr (W > 1) {
    load_tile<Next>(b + right.column, right.step);
    multiply_tiles<1, Left, Next>();
  }
  if constexpr (W > 2) {
    load_tile<Right>(b + 2 * right.column, right.step);
    multiply_tiles<2, Left, Right>();
  }
}
// Tiles 0 ... W - 1 += left times right over `pairs`; the registers are set up for pairs % 16 as the tail.
template <int W>
inline __attribute__((always_inline)) void multiply_cell(TileLeft left, TileRight right, int64_t pairs) {
  const float *a = left.data, *b = right.data;
  for (int64_t k = pairs / kTileSide; k > 0; --k, a += left.tile, b += kTileSide * right.step)
    multiply_step<W, 3, 4, 5>(a, left.row, b, right);
  if (pairs % kTileSide != 0) multiply_step<W, 6, 7, 7>(a, left.row, b, right);
}
template <int W>
inline __attribute__((always_inline)) void clear_cell() {
  clear_tile<0>();
  if constexpr (W > 1) clear_tile<1>();
  if constexpr (W > 2) clear_tile<2>();
}
template <int W>
inline __attribute__((always_inline)) void load_cell(const float* from, int64_t ld) {
  load_tile<0>(from, ld);
  if constexpr (W > 1) load_tile<1>(from + kTileSide, ld);
  if constexpr (W > 2) load_tile<2>(from + 2 * kTileSide, ld);
}
template <int W>
inline __attribute__((always_inline)) void store_cell(float* to, int64_t ld) {
  store_tile<0>(to, ld);
  if constexpr (W > 1) store_tile<1>(to + kTileSide, ld);
  if constexpr (W > 2) store_tile<2>(to + 2 * kTileSide, ld);
}

// out (rows ldo apart) += left times right; only `rows` x `cols` of the cell are inside out.
template <int W>
inline __attribute__((always_inline)) void add_cell(TileLeft left, TileRight right, int64_t pairs, float* out,
                                                    int64_t ldo, int64_t rows, int64_t cols) {
  if (rows >= kTileSide && cols >= W * kTileSide) {
    load_cell<W>(out, ldo);
    multiply_cell<W>(left, right, pairs);
    return store_cell<W>(out, ldo);
  }
  alignas(64) float edge[W * kTileFloats];
  clear_cell<W>();
  multiply_cell<W>(left, right, pairs);
  store_cell<W>(edge, W * kTileSide);
  for (int64_t r = 0; r < min64(kTileSide, rows); ++r)
    for (int64_t c = 0; c < min64(W * kTileSide, cols); c += kTileSide) {
      const Tail<float> tail(min64(kTileSide, cols - c));
      float* const at = out + r * ldo + c;
      tail.store(at, tail.load(at) + load(edge + r * W * kTileSide + c));
    }
}

// 16 columns of [pairs][`step` floats] as left tiles, one behind the other.
inline void left_tiles(TileRight columns, int64_t pairs, float* to) {
  for (int64_t k = 0; k < pairs; k += kTileSide, to += kTileFloats)
    transpose_tile(columns.data + k * columns.step, to, columns.step, pairs - k);
}

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA
#endif

// The products of `gram` in tiles of bfloat16 (simd/bf16/tile_cells.h): right operands are those of pairs, left ones are
// tiles of 16 rows. Included by *.bf16.cpp only.
#pragma once
#ifdef __AMX_TILE__
#include "gram/cpu/tile.h"
#include "simd/bf16/tile_cells.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

struct TileCells {
  using Op = Pairs;
  using T = float;
  static constexpr int R = Tile<T>::kRows, L = kLanes<T>, kCols = Tile<T>::kCols;
  static constexpr int kRows = kTileSide;
  using Left = TileLeft;
  struct Registers : TileRegisters {
    explicit Registers(int64_t steps) : TileRegisters(steps % kTileSide) {}
  };

  // Tiles of 16 rows, one behind the other along the steps.
  static constexpr int64_t tiles(int64_t steps) { return (steps + kTileSide - 1) / kTileSide; }
  static Left of_panels(const T* left, int64_t i, int64_t steps) {
    return {left + i / kTileSide * tiles(steps) * kTileFloats, kTileSide, kTileFloats};
  }
  static Left of_weights(const T* weights, int64_t i, int64_t block) {
    return {weights + i * block, kTileSide, kTileFloats};
  }
  static Left of_rows(const T* x, int64_t i, int64_t ld) { return {x + i * ld, ld, kTileSide}; }
  static T* left_of(T* panels, int64_t rows, int64_t steps) {
    T* const left = panels + round_up(rows, kCols) * steps;
    for (int64_t i = 0; i < rows; i += kTileSide)
      left_tiles({panels + i / kCols * kCols * steps + i % kCols, kCols}, steps,
                 left + i / kTileSide * tiles(steps) * kTileFloats);
    return left;
  }

  static void emit_left(const uint16_t* s, int64_t i0, int64_t j0, int64_t block, T* column, T* row) {
    const auto put = [&](T* panel, int64_t line, int64_t step, uint16_t low, uint16_t high) {
      const uint32_t both = pair(low, high);
      std::memcpy(panel + line / kTileSide * kTileSide * block + step / kTileSide * kTileFloats +
                      line % kTileSide * kTileSide + step % kTileSide,
                  &both, sizeof(both));
    };
    for (int64_t i = 0; i < kUnit; i += 2)
      for (int64_t j = 0; j < kUnit; ++j) put(column, j0 + j, (i0 + i) / 2, s[i * kUnit + j], s[(i + 1) * kUnit + j]);
    for (int64_t i = 0; row != nullptr && i < kUnit; ++i)
      for (int64_t j = 0; j < kUnit; j += 2) put(row, i0 + i, (j0 + j) / 2, s[i * kUnit + j], s[i * kUnit + j + 1]);
  }

  template <bool, int W, typename Use>
  static inline __attribute__((always_inline)) void product(Left left, int64_t steps, const T* right, const Use& use) {
    alignas(64) T cell[kTileSide * W * L];
    clear_cell<W>();
    multiply_cell<W>(left, {right, kCols}, steps);
    store_cell<W>(cell, W * L);
    for (int64_t half = 0; half < kTileSide; half += R) {
      Vec<T> acc[R][W];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) acc[r][v] = load(cell + ((half + r) * W + v) * L);
      use(half, acc);
    }
  }
  template <int W>
  static inline __attribute__((always_inline)) void sum(Left left, int64_t steps, const T* right, T* out, bool first) {
    first ? clear_cell<W>() : load_cell<W>(out, kCols);
    multiply_cell<W>(left, {right, kCols}, steps);
    store_cell<W>(out, kCols);
  }
};

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA
#endif

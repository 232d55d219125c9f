// The operands of products of rows, and of weights with rows: how a format packs rows and stores a tile of weights. Those
// in T are here, those in bfloat16 in simd/bf16/pair_operands.h and simd/bf16/tile_operands.h. Included by
// *.kernel.cpp and *.bf16.cpp only.
#pragma once
#include "simd/tile.h"

namespace sslspec::cpu {
namespace {

// Rows [begin, end) of a matrix whose panels hold `padded` rows.
struct RowRange {
  int64_t begin, end, padded;
};

// Which operand of products the rows are.
enum class OperandSide { left, right, both };

constexpr int64_t kMostPadding = 32;  // of a row in panels, and rows behind the last in column panels, in any format

template <typename Number>
struct ExactOperands {
  using Op = Exact<Number>;
  using Row = Number;                  // of the rows in memory
  static constexpr int kTogether = 1;  // rows of weights that are stored together
  static constexpr int64_t kLd = Tile<Number>::kLd;
  static constexpr int64_t kTileSize = kLd * kLd;
  static constexpr int64_t kLeastKept = 32;  // steps of a product that takes longer than a pass over memory

  static constexpr int64_t steps(int64_t depth) { return depth; }       // of a product of two rows
  static constexpr int64_t row_floats(int64_t depth) { return depth; }  // of a row in panels
  // The panels of `rows` rows as the right operand.
  static const Number* right(const Number* panels, int64_t, int64_t) { return panels; }
  static Number number(Row x) { return x; }

  // Returns the largest squared norm.
  static Number pack_by_rows(const Row* x, int64_t ldx, RowRange rows, int64_t d, Number* panels, OperandSide) {
    return pack_rows<Number>(x, ldx, rows.begin, rows.end, d, {}, panels);
  }
  // Some of n rows.
  static void pack_by_columns(const Row* x, int64_t ldx, RowRange rows, int64_t n, int64_t d, Number* panels) {
    pack_columns<Number>(x, ldx, rows.begin, rows.end, n, d, {}, panels);
  }

  // `block_product` (simd/tile.h) of such panels.
  template <typename Finish>
  static inline __attribute__((always_inline)) void product(int64_t depth, const Number* left, const Number* right,
                                                            Block block, Number* partial, const Finish& finish,
                                                            bool onto = false) {
    block_product<Number>(depth, left, right, block, partial, kLd, finish, onto);
  }

  // Rows i ... i + kTogether and V registers from column j on of the weights of a block.
  template <int V>
  static inline __attribute__((always_inline)) void put(Number* tile, int64_t i, int64_t j,
                                                        const Vec<Number> (&e)[kTogether][V]) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(tile + i * kLd + j + v * kLanes<Number>, e[0][v]);
  }

  // out (row stride ldo, d columns) += W B for the weights W of ni rows and nj columns, and += W^T A; each once.
  static void times(Number* tile, int64_t ni, int64_t nj, ColumnPanels<Number> b, Number* out, int64_t ldo, int64_t d) {
    block_accumulate<false, Number>(tile, kLd, ni, nj, b, out, ldo, d);
  }
  static void transposed_times(Number* tile, int64_t ni, int64_t nj, ColumnPanels<Number> a, Number* out, int64_t ldo,
                               int64_t d) {
    block_accumulate<true, Number>(tile, kLd, nj, ni, a, out, ldo, d);
  }
};

}  // namespace
}  // namespace sslspec::cpu

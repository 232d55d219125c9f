// The operands of products of rows, and of weights with rows: how a format packs rows and stores a tile of weights. Those
// in T are here, those in bfloat16 in pairwise/cpu/bf16_panels.h. Included by *.kernel.cpp and *.bf16.cpp only.
#pragma once
#include "simd/tile.h"

namespace sslspec::cpu {
namespace {

template <typename Number>
struct ExactOperands {
  using Op = Exact<Number>;
  using Row = Number;                  // of the rows in memory
  static constexpr int kTogether = 1;  // rows of weights that are stored together
  static constexpr int64_t kLd = Tile<Number>::kLd;
  static constexpr int64_t kTileSize = kLd * kLd;

  static constexpr int64_t steps(int64_t depth) { return depth; }  // of a product of two rows
  static Number number(Row x) { return x; }

  static void pack_by_rows(const Row* x, int64_t ldx, int64_t r0, int64_t r1, int64_t d, Number* panels) {
    pack_rows<Number>(x, ldx, r0, r1, d, {}, panels);
  }
  // Rows [r0, r1) of n.
  static void pack_by_columns(const Row* x, int64_t ldx, int64_t r0, int64_t r1, int64_t n, int64_t d, Number* panels) {
    pack_columns<Number>(x, ldx, r0, r1, n, d, {}, panels);
  }

  // Rows i ... i + kTogether and V registers from column j on of the weights of a block.
  template <int V>
  static inline __attribute__((always_inline)) void put(Number* tile, int64_t i, int64_t j,
                                                        const Vec<Number> (&e)[kTogether][V]) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(tile + i * kLd + j + v * kLanes<Number>, e[0][v]);
  }

  // out (row stride ldo, d columns) += W B for the weights W of ni rows and nj columns, and += W^T A.
  static void times(const Number* tile, int64_t ni, int64_t nj, ColumnPanels<Number> b, Number* out, int64_t ldo,
                    int64_t d) {
    block_accumulate<false, Number>(tile, kLd, ni, nj, b, out, ldo, d);
  }
  static void transposed_times(const Number* tile, int64_t ni, int64_t nj, ColumnPanels<Number> a, Number* out,
                               int64_t ldo, int64_t d) {
    block_accumulate<true, Number>(tile, kLd, nj, ni, a, out, ldo, d);
  }
};

}  // namespace
}  // namespace sslspec::cpu

// The products of `gram` in cells: registers of kRows rows and up to kCols columns. Another format of products
// (gram/cpu/tile_cells.h) has other rows and other left operands. Included by *.kernel.cpp and *.bf16.cpp only.
#pragma once
#include "gram/cpu/tile.h"

namespace sslspec::cpu {
namespace {

template <typename Number>
struct Cells {
  using Op = Number;
  using T = typename Op::T;
  static constexpr int R = Tile<T>::kRows, L = kLanes<T>, kCols = Tile<T>::kCols;
  static constexpr int kRows = R;

  struct Left {
    const T* data;
    int64_t step;
  };
  // The left operand from row i on: of panels that `left_of` has been through, of weights, of rows that lie `ld` apart.
  static Left of_panels(const T* panels, int64_t i, int64_t steps) {
    return {panels + i / kCols * kCols * steps + i % kCols, kCols};
  }
  static Left of_weights(const T* weights, int64_t i, int64_t block) { return {weights + i * block, R}; }
  static Left of_rows(const T* x, int64_t i, int64_t ld) { return {x + i * ld, ld}; }
  // Panels of `rows` rows as a left operand; there is as much memory behind them.
  static T* left_of(T* panels, int64_t, int64_t) { return panels; }

  // A unit of weights as the left operands of its columns and of its rows (`emit`).
  static void emit_left(const typename Steps<Op>::Value* s, int64_t i0, int64_t j0, int64_t block, T* column, T* row) {
    emit<Op, R>(s, i0, j0, block, column, row);
  }

  // What a product of this depth needs for as long as cells are made.
  struct Registers {
    explicit Registers(int64_t) {}
  };

  // use(r, acc) for the rows r ... r + R - 1 of the cell; kTogether: of panels or weights, not of rows
  template <bool kTogether, int W, typename Use>
  static inline __attribute__((always_inline)) void product(Left left, int64_t steps, const T* right, const Use& use) {
    Vec<T> acc[R][W];
    clear(acc);
    multiply_by<kTogether, Tile<T>, Op, W>(steps, left.data, left.step, right, acc);
    use(0, acc);
  }
  // The cell of panels into `out`, rows kCols apart, or onto it.
  template <int W>
  static inline __attribute__((always_inline)) void sum(Left left, int64_t steps, const T* right, T* out, bool first) {
    product<true, W>(left, steps, right, [&](int64_t, const Vec<T>(&acc)[R][W]) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < W; ++v) {
          T* at = out + r * kCols + v * L;
          store(at, first ? acc[r][v] : acc[r][v] + load(at));
        }
    });
  }
};

}  // namespace
}  // namespace sslspec::cpu

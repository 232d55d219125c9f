// The Gram side of a problem cut into blocks, its workspace, and the small work on one 48 x 48 unit of a tile.
// Included by *.kernel.cpp only.
#pragma once
#include "simd/steps.h"

namespace sslspec::cpu {
namespace {

constexpr int64_t kUnit = 48;      // every kCols divides it
constexpr int64_t kGroup = 192;    // columns of one gradient task on the dual side
constexpr int64_t kRowGroup = 48;  // rows of one gradient task on the primal side
constexpr int64_t kGroups = 2;     // groups of one task, packed one after the other
constexpr int kLines = 24;         // cache lines fetched ahead per register tile
constexpr int64_t kSlices = 8;     // most slices of the depth, over all tiles: tasks of step 1
constexpr double kSerial = 2e6;    // flops below which one thread is faster than waking more

constexpr int64_t ceil_div(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

template <typename Op>
struct Layout {  // of the Gram side and of the workspace; base == nullptr only counts
  using T = typename Op::T;
  static constexpr int kNumbers = Steps<Op>::kNumbers;
  // Units of a block: its weights (384^2 of float, 528^2 of bfloat16) stay in the L2 cache.
  static constexpr int64_t kMaxUnits = kNumbers == 1 ? 8 : 11;
  // Depth of one packed chunk: its right-hand panel stays in the L1 cache.
  static constexpr int64_t kChunk = 128 * kNumbers;

  bool dual;
  int tiles;  // Gram matrices: x and y apart, or X^T Y alone
  int64_t m, depth, units, blocks, block, slices;
  T *partial, *by_column, *by_row, *diagonal, *own, *other;
  int64_t size = 0;

  Layout(T* base, int64_t n, int64_t d, int operands, bool cross, bool use_dual) {
    dual = use_dual;
    tiles = operands == 2 && !(cross && !dual) ? 2 : 1;
    m = dual ? n : d;
    depth = dual ? d : n;
    units = ceil_div(m, kUnit);
    blocks = ceil_div(units, kMaxUnits);
    block = ceil_div(units, blocks) * kUnit;
    slices = min64(kSlices / tiles, ceil_div(depth, 2 * kChunk));
    auto take = [&](int64_t count) {
      T* p = base == nullptr ? nullptr : base + size;
      size += round_up(count, 64);
      return p;
    };
    partial = take(slices * tiles * block * block);
    by_column = take(tiles * block * block);
    by_row = take(blocks > 1 || (cross && !dual) ? tiles * block * block : 0);
    diagonal = take(tiles * block);
    own = take(2 * d);
    other = take(2 * d);
  }
  int64_t begin(int64_t b) const { return min64(m, units * b / blocks * kUnit); }
};

// The unit at (i0, j0) of a tile of size `block` as panels of its columns [panel][step of i][width] and of its rows
// [panel][step of j][width]; panels lie block * width apart.
template <typename Op, int kWidth, typename T = typename Op::T>
void emit(const typename Steps<Op>::Value* s, int64_t i0, int64_t j0, int64_t block, T* column, T* row) {
  using S = Steps<Op>;
  constexpr int N = S::kNumbers;
  typename S::Value v[N];
  for (int64_t c = 0; c < kUnit; c += kWidth) {
    T* out = column + (j0 + c) * block + i0 / N * kWidth;
    for (int64_t i = 0; i < kUnit; i += N)
      for (int64_t k = 0; k < kWidth; ++k) {
        for (int n = 0; n < N; ++n) v[n] = s[(i + n) * kUnit + c + k];
        out[i / N * kWidth + k] = S::join(v);
      }
    if (row == nullptr) continue;
    out = row + (i0 + c) * block + j0 / N * kWidth;
    for (int64_t j = 0; j < kUnit; j += N)
      for (int64_t k = 0; k < kWidth; ++k) {
        for (int n = 0; n < N; ++n) v[n] = s[(c + k) * kUnit + j + n];
        out[j / N * kWidth + k] = S::join(v);
      }
  }
}

template <typename T>
double inner(const T* a, const T* b, int64_t rows, int64_t cols) {
  double lane[8] = {};
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) lane[j % 8] += double(a[i * kUnit + j]) * double(b[i * kUnit + j]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace
}  // namespace sslspec::cpu

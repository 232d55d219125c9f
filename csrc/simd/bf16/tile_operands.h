// Operands of products of rows, and of weights with rows, in tiles of bfloat16 (simd/bf16/tile_registers.h). As those in
// pairs (pair_operands.h), but every operand is a sequence of whole tiles, and a left one differs from a right one.
//
// A tile of logits goes through memory: registers of floats are read from it while the tile registers work on the
// next one.
#pragma once
#ifdef __AMX_TILE__
#include "simd/bf16/pair_operands.h"
#include "simd/bf16/tile_cells.h"
#include "simd/memory.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

struct TileOperands {
  using Op = Pairs;  // the numbers and their rounding
  using Row = uint16_t;
  static constexpr int kTogether = 2, L = kLanes<float>, R = Tile<float>::kRows, V = Tile<float>::kVecs;
  static constexpr int64_t kNumbers = 2 * kTileSide;  // of a row of a left tile
  static constexpr int64_t kAcross = Tile<float>::kBlock / kNumbers, kDown = Tile<float>::kBlock / kTileSide;
  static constexpr int64_t kDepth = 8;  // tiles along one pass of a sum: kVecs right ones of each stay in the L1 cache
  static constexpr int64_t kLd = Tile<float>::kLd;
  // The sums between depth passes, W in left tiles, and W in right tiles, which `transposed_times` turns into the left
  // tiles of W^T.
  static constexpr int64_t kLeft = kLd * kLd, kTransposed = kLeft + kDown * kAcross * kTileFloats;
  static constexpr int64_t kTileSize = kTransposed + kDown * kAcross * kTileFloats;
  static constexpr int64_t kLeastKept = 32;  // 1024 numbers
  static_assert(L == kTileSide && Tile<float>::kCols == 3 * kTileSide);

  static constexpr int64_t steps(int64_t depth) { return (depth + kNumbers - 1) / kNumbers; }
  static constexpr int64_t row_floats(int64_t depth) { return steps(depth) * kNumbers; }  // both forms
  static const float* right(const float* panels, int64_t rows, int64_t depth) {
    return panels + rows * steps(depth) * kTileSide;
  }
  static float number(Row x) { return widened(x); }

  // [16 rows][steps] tiles, the left ones from `panels` on and the right ones from `right(panels)` on.
  static float pack_by_rows(const Row* x, int64_t ldx, RowRange rows, int64_t d, float* panels, OperandSide side) {
    const int64_t tiles = steps(d);
    float* const right_panels = const_cast<float*>(right(panels, rows.padded, d));
    float largest = 0;
    for (int64_t p = rows.begin; p < rows.begin + round_up(rows.end - rows.begin, Tile<float>::kCols); p += L) {
      const int64_t inside = max64(0, min64(L, rows.end - p));
      Vec<float> norm[L] = {};
      for (int64_t k = 0; k < tiles; ++k) {
        const __mmask32 columns = static_cast<__mmask32>((uint64_t{1} << min64(kNumbers, d - k * kNumbers)) - 1);
        alignas(64) float tile[kTileFloats];
        for (int64_t l = 0; l < L; ++l) {
          const __mmask32 mask = l < inside ? columns : 0;
          const __m512i v = _mm512_maskz_loadu_epi16(mask, x + (p + l) * ldx + k * kNumbers);
          const auto low = (Vec<float>)_mm512_maskz_slli_epi32(0xffff, v, 16);
          const auto high = (Vec<float>)_mm512_and_epi32(v, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
          norm[l] += low * low + high * high;
          store(tile + l * L, (Vec<float>)v);
        }
        const int64_t at = (p / L * tiles + k) * kTileFloats;
        if (side != OperandSide::right) std::memcpy(panels + at, tile, sizeof(tile));
        if (side != OperandSide::left) transpose_tile(tile, right_panels + at);
      }
      for (int64_t l = 0; l < inside; ++l) {
        const float square = hsum<float>(norm[l]);
        if (!(square <= largest)) largest = square;  // keeps NaN
      }
    }
    return largest;
  }

  // Pairs of rows by 16 columns, [columns][pairs and a tile of zeros behind them]: a right tile begins at any pair.
  static constexpr int64_t column_pairs(int64_t n) { return pairs(n) + kTileSide; }
  static void pack_by_columns(const Row* x, int64_t ldx, RowRange rows, int64_t n, int64_t d, float* columns) {
    const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                           37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(L));
    const int64_t each = column_pairs(n) * L;
    for (int64_t c = 0; c < d; c += kNumbers) {
      const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << min64(kNumbers, d - c)) - 1);
      float* const out = columns + c / L * each;
      for (int64_t r = rows.begin; r < rows.end; r += 2) {
        const __m512i low = _mm512_maskz_loadu_epi16(mask, x + r * ldx + c);
        const __m512i high = _mm512_maskz_loadu_epi16(r + 1 < n ? mask : 0, x + (r + 1 < n ? r + 1 : r) * ldx + c);
        store(out + r / 2 * L, (Vec<float>)_mm512_permutex2var_epi16(low, first, high));
        if (c + L < d) store(out + each + r / 2 * L, (Vec<float>)_mm512_permutex2var_epi16(low, second, high));
      }
      if (rows.end < n) continue;
      for (int64_t b = 0; b < (c + L < d ? 2 : 1); ++b) zero(out + b * each + pairs(n) * L, kTileSide * L);
    }
  }

  // ---- products of rows ------------------------------------------------------------------------------------------
  // As `block_product` (simd/tile.h), with the register tiles of 16 rows one after the other.
  template <typename Finish>
  static inline __attribute__((always_inline)) void product(int64_t depth, const float* left, const float* right,
                                                            Block block, float* partial, const Finish& finish,
                                                            bool onto = false) {
    const TileRegisters registers;
    const auto [i0, ni, j0, nj] = block;
    const int64_t down = (ni + kTileSide - 1) / kTileSide, across = (nj + V * L - 1) / (V * L);
    const float *const a = left + i0 / kTileSide * depth * kTileFloats,
                       *b = right + j0 / kTileSide * depth * kTileFloats;
    int64_t k = 0;
    const auto multiply = [&](int64_t t, int64_t count) __attribute__((always_inline)) {
      const int64_t i = t % down, j = t / down;
      float* const sums = partial + i * kTileSide * kLd + j * V * L;
      k > 0 || onto ? load_cell<V>(sums, kLd) : clear_cell<V>();
      multiply_cell<V>({a + (i * depth + k) * kTileFloats, L, kTileFloats},
                       {b + (V * j * depth + k) * kTileFloats, L, depth * kTileFloats}, count * kTileSide);
      return sums;
    };
    for (; k + kDepth < depth; k += kDepth)
      for (int64_t t = 0; t < down * across; ++t) store_cell<V>(multiply(t, kDepth), kLd);
    alignas(64) float cell[V * kTileFloats];
    for (int64_t t = 0; t <= down * across; ++t) {
      if (t < down * across) multiply(t, depth - k);
      const int64_t i = (t - 1) % down * kTileSide, j = (t - 1) / down * V * L;
      for (int64_t half = 0; t > 0 && half < kTileSide && i + half < ni; half += R) {
        Vec<float> acc[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[r][v] = load(cell + ((half + r) * V + v) * L);
        finish(i + half, j, acc);
      }
      if (t < down * across) store_cell<V>(cell, V * L);
    }
  }

  // ---- weights ---------------------------------------------------------------------------------------------------
  template <int N>
  static inline __attribute__((always_inline)) void put(float* tile, int64_t i, int64_t j,
                                                        const Vec<float> (&e)[2][N]) {
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      const int64_t unit = j / L + v;  // of 16 columns
      const Vec<float> rows[2] = {e[0][v], e[1][v]};
      const auto both = (__m512i)Steps<Pairs>::along(rows);
      float* const along =
          tile + kLeft + (i / kTileSide * kAcross + unit / 2) * kTileFloats + i % kTileSide * L + unit % 2 * (L / 2);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(along), _mm512_maskz_extracti64x4_epi64(0xf, both, 0));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(along + L), _mm512_maskz_extracti64x4_epi64(0xf, both, 1));
      store(tile + kTransposed + (unit * kAcross + i / kNumbers) * kTileFloats + i % kNumbers / 2 * L,
            Steps<Pairs>::across(rows));
    }
  }

  // out[rows x d] += W X for left tiles W, kAcross of them for 16 rows, and the rows of X from `first` on.
  static void add_products(const float* w, int64_t rows, int64_t depth, ColumnPanels<float> x, float* out, int64_t ldo,
                           int64_t d) {
    const TileRegisters registers;
    const int64_t column = column_pairs(x.n) * L;
    for (int64_t c = 0; c < d; c += V * L)
      with_registers<Tile<float>>(d - c, [&](auto count) __attribute__((always_inline)) {
        for (int64_t i = 0; i < rows; i += kTileSide)
          add_cell<decltype(count)::value>({w + i / kTileSide * kAcross * kTileFloats, L, kTileFloats},
                                           {x.data + c / L * column + x.first / 2 * L, L, column},
                                           steps(depth) * kTileSide, out + i * ldo + c, ldo, rows - i, d - c);
      });
  }

  static void times(float* tile, int64_t ni, int64_t nj, ColumnPanels<float> b, float* out, int64_t ldo, int64_t d) {
    const int64_t units = round_up(nj, Tile<float>::kCols) / kTileSide;
    float* const w = tile + kLeft;
    for (int64_t i = 0; units % 2 != 0 && i < round_up(ni, kTileSide); ++i)  // the other half of the last tile
      zero(w + (i / kTileSide * kAcross + units / 2) * kTileFloats + i % kTileSide * L + L / 2, L / 2);
    add_products(w, ni, nj, b, out, ldo, d);
  }
  static void transposed_times(float* tile, int64_t ni, int64_t nj, ColumnPanels<float> a, float* out, int64_t ldo,
                               int64_t d) {
    float* const w = tile + kTransposed;
    const int64_t written = pairs(ni) % kTileSide;  // of the last tile
    for (int64_t j = 0; j < round_up(nj, kTileSide) / kTileSide; ++j)
      for (int64_t k = 0; k < steps(ni); ++k) {
        float* const at = w + (j * kAcross + k) * kTileFloats;
        if (k + 1 == steps(ni) && written != 0) zero(at + written * L, (kTileSide - written) * L);
        transpose_tile(at, at);
      }
    add_products(w, nj, ni, a, out, ldo, d);
  }
};

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA
#endif

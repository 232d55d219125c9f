// Operands of products of rows, and of weights with rows, in pairs of bfloat16 numbers (simd/bf16/pairs.h). The weights of
// a tile are written twice, with pairs along its rows for W B and down its columns for W^T A.
#pragma once
#include "simd/bf16/pairs.h"
#include "simd/operands.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

constexpr int64_t pairs(int64_t count) { return Steps<Pairs>::of(count); }
inline float widened(uint16_t x) {
  const uint32_t bits = pair(0, x);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// `pack_rows` for pairs along the rows; an odd row ends in a zero. Returns the largest squared norm.
float pack_pairs_by_rows(const uint16_t* x, int64_t ldx, int64_t r0, int64_t r1, int64_t d, float* panels) {
  constexpr int kCols = Tile<float>::kCols, L = kLanes<float>;
  float largest = 0;
  for (int64_t p = r0; p < r0 + round_up(r1 - r0, kCols); p += L) {
    const int64_t rows = max64(0, min64(L, r1 - p)), panel = r0 + (p - r0) / kCols * kCols;
    float* out = panels + panel * pairs(d) + (p - panel);
    const uint16_t* in = x + p * ldx;
    int64_t k = 0;
    if (rows == L)
      for (; 2 * (k + L) <= d; k += L) {
        Vec<float> m[L];
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) std::memcpy(&m[l], in + l * ldx + 2 * k, sizeof(m[l]));
        transpose<float>(m);
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) store(out + (k + l) * kCols, m[l]);
      }
    for (; k < pairs(d); ++k) {
      uint32_t v[L] = {};
      for (int64_t l = 0; l < rows; ++l) {
        const uint16_t* at = in + l * ldx + 2 * k;
        v[l] = pair(at[0], 2 * k + 1 < d ? at[1] : 0);
      }
      std::memcpy(out + k * kCols, v, sizeof(v));
    }
    for (int64_t l = 0; l < rows; ++l) {
      float lane[L] = {}, norm = 0;
      for (int64_t c = 0; c < d; c += L)
        for (int64_t i = 0; i < min64(L, d - c); ++i)
          lane[i] += widened(in[l * ldx + c + i]) * widened(in[l * ldx + c + i]);
      for (const float sum : lane) norm += sum;
      if (!(norm <= largest)) largest = norm;  // keeps NaN
    }
  }
  return largest;
}

// `pack_columns` for pairs of rows: [ceil(d / kCols)][pairs(n)][kCols]; the row after an odd last one is zero.
void pack_pairs_by_columns(const uint16_t* x, int64_t ldx, int64_t r0, int64_t r1, int64_t n, int64_t d,
                           float* panels) {
  constexpr int kCols = Wide<float>::kCols;
  for (int64_t c = 0; c < d; c += kCols)
    for (int64_t r = r0; r < r1; r += 2) {
      const uint16_t *low = x + r * ldx + c, *high = low + ldx;
      const int64_t cols = min64(kCols, d - c);
      uint32_t v[kCols] = {};
      if (r + 1 < n)
        for (int64_t k = 0; k < cols; ++k) v[k] = pair(low[k], high[k]);
      else
        for (int64_t k = 0; k < cols; ++k) v[k] = low[k];
      std::memcpy(panels + c * pairs(n) + r / 2 * kCols, v, sizeof(v));
    }
}

// Rows and weights in bfloat16. A tile holds the sums between depth passes, W in pairs along its rows (an odd number of
// cache lines each), and W in pairs down its columns.
struct PairOperands {
  using Op = Pairs;
  using Row = uint16_t;
  static constexpr int kTogether = 2;
  static constexpr int L = kLanes<float>;
  static constexpr int64_t kLd = Tile<float>::kLd, kRow = (Tile<float>::kBlock + 2 * L) / 2;
  static constexpr int64_t kAlong = kLd * kLd, kDown = kAlong + Tile<float>::kBlock * kRow;
  static constexpr int64_t kTileSize = kDown + Tile<float>::kBlock / 2 * kLd;

  static constexpr int64_t kLeastKept = 32;

  static constexpr int64_t steps(int64_t depth) { return pairs(depth); }
  static constexpr int64_t row_floats(int64_t depth) { return pairs(depth); }
  static const float* right(const float* panels, int64_t, int64_t) { return panels; }
  static float number(Row x) { return widened(x); }

  static float pack_by_rows(const Row* x, int64_t ldx, RowRange rows, int64_t d, float* panels, OperandSide) {
    return pack_pairs_by_rows(x, ldx, rows.begin, rows.end, d, panels);
  }
  static void pack_by_columns(const Row* x, int64_t ldx, RowRange rows, int64_t n, int64_t d, float* panels) {
    pack_pairs_by_columns(x, ldx, rows.begin, rows.end, n, d, panels);
  }

  template <typename Finish>
  static inline __attribute__((always_inline)) void product(int64_t depth, const float* left, const float* right,
                                                            Block block, float* partial, const Finish& finish,
                                                            bool onto = false) {
    block_product<float, Pairs>(depth, left, right, block, partial, kLd, finish, onto);
  }

  template <int V>
  static inline __attribute__((always_inline)) void put(float* tile, int64_t i, int64_t j,
                                                        const Vec<float> (&e)[2][V]) {
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      float* along = tile + kAlong + (i + s) * kRow + j / 2;
#pragma GCC unroll 2
      for (int v = 0; v + 1 < V; v += 2) {
        const __m512bh both = _mm512_cvtne2ps_pbh((__m512)e[s][v + 1], (__m512)e[s][v]);
        std::memcpy(along + v * L / 2, &both, sizeof(both));
      }
      if (V % 2 != 0) {
        const __m256bh last = _mm512_cvtneps_pbh((__m512)e[s][V - 1]);
        std::memcpy(along + (V - 1) * L / 2, &last, sizeof(last));
      }
    }
    float* down = tile + kDown + i / 2 * kLd + j;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(down + v * L, Steps<Pairs>::across({e[0][v], e[1][v]}));
  }

  static void times(float* tile, int64_t ni, int64_t nj, ColumnPanels<float> b, float* out, int64_t ldo, int64_t d) {
    block_accumulate_by<false, Pairs>(tile + kAlong, kRow, ni, pairs(nj), {b.data, pairs(b.n), b.first / 2}, out, ldo,
                                      d);
  }
  static void transposed_times(float* tile, int64_t ni, int64_t nj, ColumnPanels<float> a, float* out, int64_t ldo,
                               int64_t d) {
    block_accumulate_by<true, Pairs>(tile + kDown, kLd, nj, pairs(ni), {a.data, pairs(a.n), a.first / 2}, out, ldo, d);
  }
};

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA

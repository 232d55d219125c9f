// What the softmax and the sigmoid part of `pairwise` share: packed operands, block schedule, logits of one block.
#pragma once
#include "cpu/pairs.h"
#include "cpu/pairwise.h"
#include "cpu/scratch.h"
#include "cpu/tile.h"

namespace sslspec::cpu {
namespace {

constexpr double kLog2e = 1.4426950408889634074;
template <typename T>
constexpr T kNegInf = -__builtin_inff();

template <typename T>
struct PairwiseBuffers {  // the workspace, laid out; base == nullptr only counts
  T *a_panels, *b_panels, *a_columns, *b_columns, *norms;
  T *row_shift, *row_weight, *col_shift, *col_weight;
  int64_t size = 0;

  PairwiseBuffers(T* base, int64_t n, int64_t m, int64_t d, bool symmetric, bool backward) {
    auto take = [&](int64_t count) {
      T* p = base == nullptr ? nullptr : base + size;
      size += round_up(count, 64);
      return p;
    };
    const int64_t n_pad = round_up(n, 192), m_pad = round_up(m, 192), d_pad = round_up(d, Wide<T>::kCols);
    a_panels = take(n_pad * d);
    b_panels = symmetric ? a_panels : take(m_pad * d);
    norms = take(n_pad / 48 + m_pad / 48);
    row_shift = take(n_pad);
    col_shift = symmetric ? row_shift : take(m_pad);
    row_weight = take(n_pad);
    col_weight = symmetric ? row_weight : take(m_pad);
    a_columns = b_columns = nullptr;
    if (backward) {
      b_columns = take(d_pad * m);
      a_columns = symmetric ? b_columns : take(d_pad * n);
    }
  }
};

template <typename T>
struct PairwisePanels {
  static constexpr int L = kLanes<T>, R = Tile<T>::kRows, V = Tile<T>::kVecs, kLd = Tile<T>::kLd;
  static constexpr T kScale = static_cast<T>(kLog2e);

  const PairwiseArgs<T>& p;
  PairwiseBuffers<T> w;
  Blocks rows, cols;
  double limit;  // bound of |logit|: max |scale a| max |b|

  PairwisePanels(const PairwiseArgs<T>& args, bool backward)
      : p(args), w(args.workspace, args.n, args.m, args.d, args.symmetric, backward), rows(args.n), cols(args.m) {
    const int64_t a_blocks = rows.count, b_blocks = p.symmetric ? 0 : cols.count;
    parallel_for(a_blocks + b_blocks, p.threads, [&](int64_t t) {
      if (t < a_blocks) {
        const int64_t r0 = rows.begin(t), r1 = rows.begin(t + 1);
        w.norms[t] = pack_rows<T>(p.a, p.lda, r0, r1, p.d, p.symmetric ? nullptr : p.scale, p.scale_step, w.a_panels);
        if (backward) {
          const T* scale = p.symmetric ? nullptr : p.scale;
          pack_columns<T>(p.a, p.lda, r0, r1, p.n, p.d, scale, p.scale_step, w.a_columns);
          zero(p.grad_a + r0 * p.d, (r1 - r0) * p.d);
        }
      } else {
        const int64_t r0 = cols.begin(t - a_blocks), r1 = cols.begin(t - a_blocks + 1);
        w.norms[t] = pack_rows<T>(p.b, p.ldb, r0, r1, p.d, nullptr, 0, w.b_panels);
        if (backward) {
          pack_columns<T>(p.b, p.ldb, r0, r1, p.m, p.d, nullptr, 0, w.b_columns);
          zero(p.grad_b + r0 * p.d, (r1 - r0) * p.d);
        }
      }
    });
    const double a2 = largest(w.norms, a_blocks);
    const double b2 = p.symmetric ? a2 : largest(w.norms + a_blocks, b_blocks);
    // The symmetric case scales the logits, not the panels, so that left and right operand are one buffer.
    limit = __builtin_sqrt(a2) * __builtin_sqrt(b2) * (p.symmetric ? __builtin_fabs(double(p.scale[0])) : 1.0);
  }

  static void zero(T* x, int64_t count) { __builtin_memset(x, 0, sizeof(T) * static_cast<size_t>(count)); }
  static double largest(const T* x, int64_t count) {
    double m = 0;
    for (int64_t i = 0; i < count; ++i)
      if (!(x[i] <= m)) m = x[i];
    return m;
  }

  template <typename F>
  void for_pairs(const F& f) const {
    if (p.symmetric)
      for_symmetric_pairs(rows.count, p.threads, f);
    else
      for_all_pairs(rows.count, cols.count, p.threads, f);
  }

  T logit_scale() const { return p.symmetric ? p.scale[0] : T(1); }

  // Ids of the rows and columns of one block as ranges, so that a register tile without equal ids is seen at a glance:
  // the views of a batch, sorted labels.
  struct IdRanges {
    struct Range { int32_t low, high; };
    Range row[Tile<T>::kBlock / R], col[Tile<T>::kBlock / Tile<T>::kCols];

    static void of(const int32_t* ids, int64_t count, int64_t step, Range* out) {
      for (int64_t i = 0; i < count; i += step, ++out) {
        *out = {ids[i], ids[i]};
        for (int64_t k = i + 1; k < min64(count, i + step); ++k) {
          if (ids[k] < out->low) out->low = ids[k];
          if (ids[k] > out->high) out->high = ids[k];
        }
      }
    }
    bool meet(int64_t i, int64_t j) const {
      const Range &a = row[i / R], &b = col[j / Tile<T>::kCols];
      return a.low <= b.high && b.low <= a.high;
    }
  };
  void id_ranges(int64_t i0, int64_t ni, int64_t j0, int64_t nj, IdRanges& ranges) const {
    if (p.ids_a == nullptr) return;
    IdRanges::of(p.ids_a + i0, ni, R, ranges.row);
    IdRanges::of(p.ids_b + j0, nj, Tile<T>::kCols, ranges.col);
  }

  // May the register tile at (i, j) of the block hold pairs that must be left out, padding included? Pairs left out by a
  // sparse pattern are not looked for here.
  inline __attribute__((always_inline)) bool masked(int64_t i0, int64_t j0, int64_t i, int64_t j, const IdRanges& ids) const {
    const int64_t row = i0 + i, col = j0 + j;
    return row + R > p.n || col + Tile<T>::kCols > p.m ||
           (p.skip_self && row < col + Tile<T>::kCols && col < row + R) || (p.ids_a != nullptr && ids.meet(i, j));
  }

  // -inf for the pairs of a stored register tile [R][kCols] that must be left out.
  __attribute__((noinline)) void leave_out(int64_t row, int64_t col, T* s) const {
    constexpr int64_t kCols = Tile<T>::kCols;
    const int64_t cols = min64(kCols, p.m - col);
    for (int64_t r = 0; r < R; ++r, s += kCols) {
      const int64_t inside = row + r < p.n ? cols : 0;
      if (p.ids_a != nullptr && inside > 0) {
        const int32_t id = p.ids_a[row + r];
        for (int64_t j = 0; j < inside; ++j) s[j] = p.ids_b[col + j] == id ? kNegInf<T> : s[j];
      }
      for (int64_t j = inside; j < kCols; ++j) s[j] = kNegInf<T>;
      const int64_t self = row + r - col;
      if (p.skip_self && self >= 0 && self < kCols) s[self] = kNegInf<T>;
    }
  }

  // The block's logits into tile, left-out pairs and padding columns as -inf.
  void logits(int64_t i0, int64_t ni, int64_t j0, int64_t nj, T* tile) const {
    const T c = logit_scale();
    block_product<T>(p.d, w.a_panels, i0, ni, w.b_panels, j0, nj, tile, kLd,
                     [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
#pragma GCC unroll 8
                       for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                         for (int v = 0; v < V; ++v) store(tile + (i + r) * kLd + j + v * L, c * acc[r][v]);
                     });
    for (int64_t i = 0; i < ni; ++i) {
      T* s = tile + i * kLd;
      for (int64_t j = nj; j < round_up(nj, L); ++j) s[j] = kNegInf<T>;
      const int64_t self = i0 + i - j0;
      if (p.skip_self && self >= 0 && self < nj) s[self] = kNegInf<T>;
      if (p.ids_a != nullptr) {
        const int32_t id = p.ids_a[i0 + i];
        const int32_t* other = p.ids_b + j0;
        for (int64_t j = 0; j < nj; ++j) s[j] = other[j] == id ? kNegInf<T> : s[j];
      }
      if (p.skip_indptr != nullptr) skip_pattern(i0 + i, j0, nj, s);
    }
  }

  void skip_pattern(int64_t row, int64_t j0, int64_t nj, T* s) const {
    int64_t low = p.skip_indptr[row], end = p.skip_indptr[row + 1], high = end;
    while (low < high) {  // first entry with column >= j0
      const int64_t mid = (low + high) / 2;
      if (p.skip_indices[mid] < j0) low = mid + 1; else high = mid;
    }
    for (; low < end && p.skip_indices[low] < j0 + nj; ++low) s[p.skip_indices[low] - j0] = kNegInf<T>;
  }
};

}  // namespace
}  // namespace sslspec::cpu

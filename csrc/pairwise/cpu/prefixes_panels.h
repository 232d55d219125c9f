// Packed operands, block schedule and the logits of every prefix in registers, for the statistics of nested prefixes.
#pragma once
#include "pairwise/cpu/panels.h"
#include "pairwise/cpu/prefixes.h"

namespace sslspec::cpu {
namespace {

// The workspace, laid out; base == nullptr only counts. In the symmetric case columns are rows.
template <typename T>
struct PrefixBuffers {
  struct Side {
    T *panels, *columns, *factor, *shift, *weight, *dot;
  };  // the last four [prefixes][padded rows]
  Side row, col;
  int64_t n_pad, m_pad, size = 0;

  PrefixBuffers(T* base, int64_t n, int64_t m, int64_t d, int64_t prefixes, bool symmetric, bool backward)
      : n_pad(round_up(n, 192)), m_pad(round_up(m, 192)) {
    const auto take = [&](int64_t count) {
      T* p = base == nullptr ? nullptr : base + size;
      size += round_up(count, 64);
      return p;
    };
    const auto side = [&](int64_t rows, int64_t pad) {
      const int64_t each = prefixes * pad, wide = d + prefixes * Wide<T>::kCols;  // every segment is padded
      Side s;
      s.panels = take(pad * d), s.columns = backward ? take(wide * rows) : nullptr;
      s.factor = take(each), s.shift = take(each), s.weight = take(each), s.dot = take(each);
      return s;
    };
    row = side(n, n_pad);
    col = symmetric ? row : side(m, m_pad);
  }
};

template <typename T>
struct PrefixPanels {
  static constexpr int L = kLanes<T>, R = Tile<T>::kRows, V = Tile<T>::kVecs, kLd = Tile<T>::kLd;
  using Side = typename PrefixBuffers<T>::Side;

  const PairwisePrefixesArgs<T>& q;
  const PairwiseArgs<T>& p;
  PrefixBuffers<T> w;
  Blocks rows, cols;
  double limit;  // bound of |logit|

  PrefixPanels(const PairwisePrefixesArgs<T>& args, bool backward)
      : q(args), p(args.pairs), w(p.workspace, p.n, p.m, p.d, q.prefixes, p.symmetric, backward), rows(p.n), cols(p.m) {
    const double a = pack(p.a, p.lda, p.n, w.n_pad, rows, q.alpha, w.row, backward);
    const double b = p.symmetric ? a : pack(p.b, p.ldb, p.m, w.m_pad, cols, q.beta, w.col, backward);
    limit = a * b;
  }

  int64_t begin(int64_t h) const { return h == 0 ? 0 : q.dims[h - 1]; }  // of the columns that prefix h adds
  int64_t length(int64_t h) const { return q.dims[h] - begin(h); }

  // Panels of every segment and padded factors; returns the largest factor |x[:d_h]|, a bound of one side of the
  // logits.
  double pack(const T* x, int64_t ldx, int64_t n, int64_t pad, const Blocks& blocks, const T* factor, const Side& side,
              bool backward) {
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0; i < pad; ++i) side.factor[h * pad + i] = i < n ? factor[h * n + i] : T(0);
    T* largest = side.shift;  // one per block; not in use yet
    parallel_for(blocks.count, p.threads, [&](int64_t t) {
      const int64_t r0 = blocks.begin(t), r1 = blocks.begin(t + 1);
      int64_t wide = 0;
      double square = 0, top = 0;
      for (int64_t h = 0; h < q.prefixes; ++h) {
        const T* part = x + begin(h);
        pack_rows<T>(part, ldx, r0, r1, length(h), {}, side.panels + begin(h) * pad);
        if (backward) pack_columns<T>(part, ldx, r0, r1, n, length(h), {}, side.columns + wide * n);
        wide += round_up(length(h), Wide<T>::kCols);
      }
      for (int64_t i = r0; i < r1; ++i, square = 0)
        for (int64_t h = 0; h < q.prefixes; ++h) {
          for (int64_t k = begin(h); k < q.dims[h]; ++k) square += double(x[i * ldx + k]) * double(x[i * ldx + k]);
          const double size = __builtin_fabs(double(factor[h * n + i])) * __builtin_sqrt(square);
          if (!(size <= top)) top = size;  // keeps NaN
        }
      largest[t] = static_cast<T>(top);
    });
    double top = 0;
    for (int64_t t = 0; t < blocks.count; ++t)
      if (!(largest[t] <= top)) top = largest[t];
    return top;
  }

  template <typename F>
  void for_pairs(const F& f) const {
    const auto pair = [&](int64_t bi, int64_t bj) {
      f(rows.begin(bi), rows.size(bi), cols.begin(bj), cols.size(bj), p.symmetric ? bi != bj : p.columns);
    };
    if (p.symmetric)
      for_symmetric_pairs(rows.count, p.threads, pair);
    else
      for_all_pairs(rows.count, cols.count, p.threads, pair);
  }

  // use(i, j, s, factor, plain) for the register tiles of prefix h: s(r, v) the logits, -inf for pairs that are left
  // out (none if `plain`, a constant), factor(r, v) = alpha_i beta_j. `tile` carries the products from prefix to
  // prefix.
  template <typename Use>
  inline __attribute__((always_inline)) void for_tiles(int64_t h, int64_t i0, int64_t ni, int64_t j0, int64_t nj,
                                                       T* tile, const Use& use) const {
    BlockMask<T> left_out(p, i0, ni, j0, nj);
    const T *alpha = w.row.factor + h * w.n_pad + i0, *beta = w.col.factor + h * w.m_pad + j0;
    const bool last = h + 1 == q.prefixes;
    block_product<T>(
        length(h), w.row.panels + begin(h) * w.n_pad, w.col.panels + begin(h) * w.m_pad, {i0, ni, j0, nj}, tile, kLd,
        [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
          const auto factor = [&](int r, int v)
                                  __attribute__((always_inline)) { return load(beta + j + v * L) * alpha[i + r]; };
          if (!last)
            for (int r = 0; r < R; ++r)
              for (int v = 0; v < V; ++v) store(tile + (i + r) * kLd + j + v * L, acc[r][v]);
          if (__builtin_expect(left_out.meets(i, j), 0)) {
            T s[R * V * L];
            for (int r = 0; r < R; ++r)
              for (int v = 0; v < V; ++v) store(s + (r * V + v) * L, acc[r][v] * factor(r, v));
            left_out.apply(i, j, s);
            use(
                i, j, [&](int r, int v) __attribute__((always_inline)) { return load(s + (r * V + v) * L); }, factor,
                std::false_type{});
          } else {
            use(
                i, j, [&](int r, int v) __attribute__((always_inline)) { return acc[r][v] * factor(r, v); }, factor,
                std::true_type{});
          }
        },
        h > 0);
  }
};

}  // namespace
}  // namespace sslspec::cpu

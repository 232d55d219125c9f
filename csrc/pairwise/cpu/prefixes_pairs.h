// Log-sum-exp statistics of the logits of nested prefixes, s^h = diag(alpha^h) A[:, :d_h] B[:, :d_h]^T diag(beta^h),
// and their gradient.
//
// The products of prefix h are those of prefix h - 1 plus the columns d_{h-1} ... d_h: one pass over the columns serves
// all prefixes of a tile. Backwards, a column counts in every prefix that holds it, so its weights are the sum of the
// tiles alpha^g_i W^g_ij beta^g_j over g >= h: one pass again. The tiles of a pair of blocks stay in the L2 cache.
//
// Shift as in softmax.h; a wide range takes a pass of its own for the largest logits.
//
// Precision policy: as in softmax.h. Operands in another format than T are the rows, and the sums of the weights with
// their factors; the gradients of the factors are of weights in T.
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
      s.panels = take(pad * (d + prefixes * kMostPadding));
      s.columns = backward ? take(wide * (rows + kMostPadding)) : nullptr;
      s.factor = take(each), s.shift = take(each), s.weight = take(each), s.dot = take(each);
      return s;
    };
    row = side(n, n_pad);
    col = symmetric ? row : side(m, m_pad);
  }
};

// Packed operands, block schedule and the logits of every prefix in registers.
template <typename Operands>
struct PrefixPanels {
  using Op = typename Operands::Op;
  using T = typename Op::T;
  using Row = typename Operands::Row;
  static constexpr int L = kLanes<T>, R = Tile<T>::kRows, V = Tile<T>::kVecs, kLd = Tile<T>::kLd;
  using Side = typename PrefixBuffers<T>::Side;

  const PairwisePrefixesArgs<T>& q;
  const PairwiseArgs<T>& p;
  PrefixBuffers<T> w;
  Blocks rows, cols;
  double limit;  // bound of |logit|

  // a and b: the rows, which args.pairs holds in T alone.
  PrefixPanels(const PairwisePrefixesArgs<T>& args, const Row* a, const Row* b, bool backward)
      : q(args), p(args.pairs), w(p.workspace, p.n, p.m, p.d, q.prefixes, p.symmetric, backward), rows(p.n), cols(p.m) {
    const OperandSide left = p.symmetric ? OperandSide::both : OperandSide::left;
    const double of_a = pack(a, p.lda, rows, q.alpha, w.row, left, backward);
    const double of_b = p.symmetric ? of_a : pack(b, p.ldb, cols, q.beta, w.col, OperandSide::right, backward);
    limit = of_a * of_b;
  }

  int64_t begin(int64_t h) const { return h == 0 ? 0 : q.dims[h - 1]; }  // of the columns that prefix h adds
  int64_t length(int64_t h) const { return q.dims[h] - begin(h); }
  int64_t floats_before(int64_t h) const {  // of a row in the panels of the segments before h
    int64_t floats = 0;
    for (int64_t g = 0; g < h; ++g) floats += Operands::row_floats(length(g));
    return floats;
  }

  // Panels of every segment, each with whole steps of its own, and padded factors; returns the largest factor
  // |x[:d_h]|, a bound of one side of the logits.
  double pack(const Row* x, int64_t ldx, const Blocks& blocks, const T* factor, const Side& side, OperandSide as,
              bool backward) {
    const int64_t n = blocks.n, pad = round_up(n, 192);
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0; i < pad; ++i) side.factor[h * pad + i] = i < n ? factor[h * n + i] : T(0);
    T* largest = side.shift;  // one per block; not in use yet
    parallel_for(blocks.count, p.threads, [&](int64_t t) {
      const int64_t r0 = blocks.begin(t), r1 = blocks.begin(t + 1);
      int64_t wide = 0;
      double square = 0, top = 0;
      for (int64_t h = 0; h < q.prefixes; ++h) {
        const Row* part = x + begin(h);
        const RowRange block{r0, r1, pad};
        Operands::pack_by_rows(part, ldx, block, length(h), side.panels + floats_before(h) * pad, as);
        if (backward)
          Operands::pack_by_columns(part, ldx, block, n, length(h), side.columns + wide * (n + kMostPadding));
        wide += round_up(length(h), Wide<T>::kCols);
      }
      for (int64_t i = r0; i < r1; ++i, square = 0)
        for (int64_t h = 0; h < q.prefixes; ++h) {
          for (int64_t k = begin(h); k < q.dims[h]; ++k) {
            const double each = Operands::number(x[i * ldx + k]);
            square += each * each;
          }
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
    const T* const right = w.col.panels + floats_before(h) * w.m_pad;
    Operands::product(
        Operands::steps(length(h)), w.row.panels + floats_before(h) * w.n_pad,
        Operands::right(right, w.m_pad, length(h)), {i0, ni, j0, nj}, tile,
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

template <typename Operands>
struct Prefixes : PrefixPanels<Operands> {
  using Base = PrefixPanels<Operands>;
  using Base::p, Base::q, Base::w, Base::limit, Base::begin, Base::length, Base::for_pairs, Base::for_tiles, Base::L,
      Base::R, Base::V, Base::kLd;
  using typename Base::Side;
  using typename Base::T, typename Base::Row;
  static constexpr T kScale = static_cast<T>(kLog2e);
  static constexpr int64_t kTile = int64_t(kLd) * kLd;

  bool narrow;

  Prefixes(const PairwisePrefixesArgs<T>& args, const Row* a, const Row* b, bool backward)
      : Base(args, a, b, backward) {
    narrow = is_narrow<T>(limit);
  }

  // each(i + r, j + v L, s(r, v), factor(r, v), plain) for every register of prefix h
  template <typename Each>
  inline __attribute__((always_inline)) void for_registers(int64_t h, int64_t i0, int64_t ni, int64_t j0, int64_t nj,
                                                           T* tile, const Each& each) const {
    for_tiles(h, i0, ni, j0, nj, tile,
              [&](int64_t i, int64_t j, const auto& s, const auto& factor, auto plain) __attribute__((always_inline)) {
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                  for (int v = 0; v < V; ++v) each(i + r, j + v * L, s(r, v), factor(r, v), plain);
              });
  }

  // A statistic of the rows and the columns of a block, lane by lane.
  struct Lanes {
    Vec<T>*row, *col;
  };
  static Lanes lanes(T start) {
    Vec<T>* row = static_cast<Vec<T>*>(scratch(1, 2 * sizeof(Vec<T>) * kLd));
    for (int64_t i = 0; i < 2 * kLd; ++i) row[i] = splat<T>(start);
    return {row, row + kLd};
  }
  static void add(const Lanes& sum, T* row, int64_t ni, T* col, int64_t nj) {
    for (int64_t i = 0; i < ni; ++i) row[i] += hsum<T>(sum.row[i]);
    for (int64_t j = 0; col != nullptr && j < nj; j += L) store(col + j, load(col + j) + sum.col[j / L]);
  }

  // ---- forward: largest logits (wide range only), then sums of exp(s - shift), kept in weight -----------------
  void forward() {
    start(w.row, w.n_pad);
    if (!p.symmetric) start(w.col, w.m_pad);
    if (!narrow) for_pairs([&](auto... block) { tops(block...); });
    for_pairs([&](auto... block) { narrow ? sums<true>(block...) : sums<false>(block...); });
    finish(p.n, w.n_pad, w.row, p.row_lse);
    if (p.columns) finish(p.m, w.m_pad, w.col, p.col_lse);
  }
  void start(const Side& side, int64_t pad) const {
    for (int64_t i = 0; i < q.prefixes * pad; ++i) side.shift[i] = narrow ? T(0) : kLowestShift<T>, side.weight[i] = 0;
  }
  void finish(int64_t n, int64_t pad, const Side& side, T* lse) const {
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0, k = h * pad; i < n; ++i, ++k)
        lse[h * n + i] = static_cast<T>(double(side.shift[k]) + __builtin_log(double(side.weight[k])));
  }

  void tops(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool use_columns) const {
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kTile));
    for (int64_t h = 0; h < q.prefixes; ++h) {
      const Lanes top = lanes(kLowestShift<T>);
      for_registers(h, i0, ni, j0, nj, tile,
                    [&](int64_t i, int64_t j, Vec<T> s, Vec<T>, auto) __attribute__((always_inline)) {
                      top.row[i] = vmax<T>(s, top.row[i]);  // a NaN logit makes the sum NaN
                      top.col[j / L] = vmax<T>(s, top.col[j / L]);
                    });
      T *row = w.row.shift + h * w.n_pad + i0, *col = w.col.shift + h * w.m_pad + j0;
      for (int64_t i = 0; i < ni; ++i) row[i] = hmax<T>(vmax<T>(top.row[i], splat(row[i])));
      for (int64_t j = 0; use_columns && j < nj; j += L) store(col + j, vmax<T>(top.col[j / L], load(col + j)));
    }
  }

  template <bool kNarrow>
  void sums(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool use_columns) const {
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kTile));
    for (int64_t h = 0; h < q.prefixes; ++h) {
      const Lanes sum = lanes(0);
      const T *row = w.row.shift + h * w.n_pad + i0, *col = w.col.shift + h * w.m_pad + j0;
      for_registers(h, i0, ni, j0, nj, tile,
                    [&](int64_t i, int64_t j, Vec<T> s, Vec<T>, auto plain) __attribute__((always_inline)) {
                      if constexpr (kNarrow) {
                        const Vec<T> e = narrow_power<T, decltype(plain)::value>(s * kScale);
                        sum.row[i] += e, sum.col[j / L] += e;
                      } else {
                        sum.row[i] += exp2<T>((s - row[i]) * kScale);
                        sum.col[j / L] += exp2<T>((s - load(col + j)) * kScale);
                      }
                    });
      add(sum, w.row.weight + h * w.n_pad + i0, ni, use_columns ? w.col.weight + h * w.m_pad + j0 : nullptr, nj);
    }
  }

  // ---- backward: the weights of every prefix, then one product per segment with the sum of those that hold it --
  void backward() {
    weights(p.n, w.n_pad, w.row, p.row_lse, p.grad_row, p.grad_a);
    if (!p.symmetric) weights(p.m, w.m_pad, w.col, p.col_lse, p.columns ? p.grad_col : nullptr, p.grad_b);
    for_pairs([&](auto... block) { narrow ? gradients<true>(block...) : gradients<false>(block...); });
    divide(p.n, w.n_pad, w.row, q.alpha, q.grad_alpha);
    if (!p.symmetric) divide(p.m, w.m_pad, w.col, q.beta, q.grad_beta);
  }
  void weights(int64_t n, int64_t pad, const Side& side, const T* lse, const T* grad, T* out) const {
    zero(out, n * p.d);
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0, k = h * pad, at = h * n; i < pad; ++i, ++k, ++at) {
        side.shift[k] = -kLowestShift<T>, side.weight[k] = side.dot[k] = 0;  // that shift makes every exponential 0
        if (i >= n || grad == nullptr || grad[at] == 0 || lse[at] == kNegInf<T>) continue;  // no pair: no gradient
        side.shift[k] = narrow ? T(0) : lse[at];
        side.weight[k] = narrow ? static_cast<T>(double(grad[at]) * __builtin_exp(-double(lse[at]))) : grad[at];
      }
  }
  void divide(int64_t n, int64_t pad, const Side& side, const T* factor, T* out) const {
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0; i < n; ++i) out[h * n + i] = side.dot[h * pad + i] / factor[h * n + i];
  }

  // A tile as operands, after the one `above` values behind it (0: none) is added to it: itself, or in `other`.
  T* weights_of(T* tile, int64_t above, int64_t ni, int64_t nj, T* other) const {
    constexpr int kTogether = Operands::kTogether;
    constexpr bool kRounded = kTogether > 1;
    if (!kRounded && above == 0) return tile;
    for (int64_t i = 0; i < ni; i += kTogether)
      for (int64_t j = 0; j < nj; j += V * L) {
        Vec<T> e[kTogether][V];
#pragma GCC unroll 2
        for (int r = 0; r < kTogether; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            T* at = tile + (i + r) * kLd + j + v * L;
            e[r][v] = load(at);
            if (above == 0) continue;
            e[r][v] += load(at + above);
            if (kRounded) store(at, e[r][v]);
          }
        Operands::put(kRounded ? other : tile, i, j, e);
      }
    return kRounded ? other : tile;
  }

  template <bool kNarrow>
  void gradients(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool off_diagonal) const {
    const bool both = !p.symmetric || off_diagonal;
    // One tile per prefix and one of products. Weights in another format replace the products, which are not needed then.
    static_assert(Operands::kTileSize <= 2 * kTile);
    T* tiles = static_cast<T*>(scratch(0, sizeof(T) * kTile * (q.prefixes + 1)));
    T* const products = tiles + q.prefixes * kTile;
    int64_t wide = 0;  // columns of the column panels of all segments before h
    for (int64_t h = 0; h < q.prefixes; wide += round_up(length(h++), Wide<T>::kCols)) {
      const Lanes dot = lanes(0);
      const T *row = w.row.weight + h * w.n_pad + i0, *col = w.col.weight + h * w.m_pad + j0;
      const T *row_shift = w.row.shift + h * w.n_pad + i0, *col_shift = w.col.shift + h * w.m_pad + j0;
      T* out = tiles + h * kTile;
      for_registers(h, i0, ni, j0, nj, products,
                    [&](int64_t i, int64_t j, Vec<T> s, Vec<T> factor, auto plain) __attribute__((always_inline)) {
                      Vec<T> e;
                      if constexpr (kNarrow)
                        e = narrow_power<T, decltype(plain)::value>(s * kScale) * (load(col + j) + row[i]);
                      else
                        e = exp2<T>((s - row_shift[i]) * kScale) * row[i] +
                            exp2<T>((s - load(col_shift + j)) * kScale) * load(col + j);
                      store(out + i * kLd + j, e * factor);
                      if constexpr (!decltype(plain)::value)
                        s = vmax<T>(s, splat<T>(kLowestShift<T>));  // 0 * inf is NaN
                      dot.row[i] += e * s, dot.col[j / L] += e * s;
                    });
      add(dot, w.row.dot + h * w.n_pad + i0, ni, both ? w.col.dot + h * w.m_pad + j0 : nullptr, nj);
    }
    for (int64_t h = q.prefixes; h-- > 0;) {
      T* tile = weights_of(tiles + h * kTile, h + 1 < q.prefixes ? kTile : 0, ni, nj, products - kTile);
      wide -= round_up(length(h), Wide<T>::kCols);
      T *to_a = p.grad_a + i0 * p.d + begin(h), *to_b = (p.symmetric ? p.grad_a : p.grad_b) + j0 * p.d + begin(h);
      Operands::times(tile, ni, nj, {w.col.columns + wide * (p.m + kMostPadding), p.m, j0}, to_a, p.d, length(h));
      if (both)
        Operands::transposed_times(tile, ni, nj, {w.row.columns + wide * (p.n + kMostPadding), p.n, i0}, to_b, p.d,
                                   length(h));
    }
  }
};

}  // namespace
}  // namespace sslspec::cpu

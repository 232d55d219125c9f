// Log-sum-exp statistics of the logits of nested prefixes, s^h = diag(alpha^h) A[:, :d_h] B[:, :d_h]^T diag(beta^h),
// and their gradient.
//
// The products of prefix h are those of prefix h - 1 plus the columns d_{h-1} ... d_h: one pass over the columns serves
// all prefixes of a tile. Backwards, a column counts in every prefix that holds it, so its weights are the sum of the
// tiles alpha^g_i W^g_ij beta^g_j over g >= h: one pass again. The tiles of a pair of blocks stay in the L2 cache.
//
// Shift and precision policy as in softmax.kernel.cpp; a wide range takes a pass of its own for the largest logits.
#include "pairwise/cpu/prefixes_panels.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct Prefixes : PrefixPanels<T> {
  using Base = PrefixPanels<T>;
  using Base::p, Base::q, Base::w, Base::limit, Base::begin, Base::length, Base::for_pairs, Base::for_tiles, Base::L,
      Base::R, Base::V, Base::kLd;
  using typename Base::Side;
  static constexpr double kNarrow = sizeof(T) == 4 ? 60.0 : 500.0;  // as in softmax.kernel.cpp
  static constexpr T kFloor = static_cast<T>(sizeof(T) == 4 ? -1e38 : -1e300);
  static constexpr T kScale = static_cast<T>(kLog2e);
  static constexpr int64_t kTile = int64_t(kLd) * kLd;

  bool narrow;

  Prefixes(const PairwisePrefixesArgs<T>& args, bool backward) : Base(args, backward) {
    narrow = limit * kLog2e < kNarrow;  // false for NaN
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

  // 2^x in the narrow range, as in softmax.kernel.cpp
  template <bool kNormal>
  static inline __attribute__((always_inline)) Vec<T> power(Vec<T> x) {
    if constexpr (kNormal)
      return exp2_normal<T>(x);
    else
      return exp2<T>(x);
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
    for (int64_t i = 0; i < q.prefixes * pad; ++i) side.shift[i] = narrow ? T(0) : kFloor, side.weight[i] = 0;
  }
  void finish(int64_t n, int64_t pad, const Side& side, T* lse) const {
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0, k = h * pad; i < n; ++i, ++k)
        lse[h * n + i] = static_cast<T>(double(side.shift[k]) + __builtin_log(double(side.weight[k])));
  }

  void tops(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool use_columns) const {
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kTile));
    for (int64_t h = 0; h < q.prefixes; ++h) {
      const Lanes top = lanes(kFloor);
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
                        const Vec<T> e = power<decltype(plain)::value>(s * kScale);
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
        side.shift[k] = -kFloor, side.weight[k] = side.dot[k] = 0;  // that shift makes every exponential 0
        if (i >= n || grad == nullptr || grad[at] == 0 || lse[at] == kNegInf<T>) continue;  // no pair: no gradient
        side.shift[k] = narrow ? T(0) : lse[at];
        side.weight[k] = narrow ? static_cast<T>(double(grad[at]) * __builtin_exp(-double(lse[at]))) : grad[at];
      }
  }
  void divide(int64_t n, int64_t pad, const Side& side, const T* factor, T* out) const {
    for (int64_t h = 0; h < q.prefixes; ++h)
      for (int64_t i = 0; i < n; ++i) out[h * n + i] = side.dot[h * pad + i] / factor[h * n + i];
  }

  template <bool kNarrow>
  void gradients(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool off_diagonal) const {
    const bool both = !p.symmetric || off_diagonal;
    T* tiles = static_cast<T*>(scratch(0, sizeof(T) * kTile * (q.prefixes + 1)));  // one per prefix, one of products
    int64_t wide = 0;  // columns of the column panels of all segments before h
    for (int64_t h = 0; h < q.prefixes; wide += round_up(length(h++), Wide<T>::kCols)) {
      const Lanes dot = lanes(0);
      const T *row = w.row.weight + h * w.n_pad + i0, *col = w.col.weight + h * w.m_pad + j0;
      const T *row_shift = w.row.shift + h * w.n_pad + i0, *col_shift = w.col.shift + h * w.m_pad + j0;
      T* out = tiles + h * kTile;
      for_registers(h, i0, ni, j0, nj, tiles + q.prefixes * kTile,
                    [&](int64_t i, int64_t j, Vec<T> s, Vec<T> factor, auto plain) __attribute__((always_inline)) {
                      Vec<T> e;
                      if constexpr (kNarrow)
                        e = power<decltype(plain)::value>(s * kScale) * (load(col + j) + row[i]);
                      else
                        e = exp2<T>((s - row_shift[i]) * kScale) * row[i] +
                            exp2<T>((s - load(col_shift + j)) * kScale) * load(col + j);
                      store(out + i * kLd + j, e * factor);
                      if constexpr (!decltype(plain)::value) s = vmax<T>(s, splat<T>(kFloor));  // 0 * inf is NaN
                      dot.row[i] += e * s, dot.col[j / L] += e * s;
                    });
      add(dot, w.row.dot + h * w.n_pad + i0, ni, both ? w.col.dot + h * w.m_pad + j0 : nullptr, nj);
    }
    for (int64_t h = q.prefixes; h-- > 0;) {
      T* tile = tiles + h * kTile;
      if (h + 1 < q.prefixes)
        for (int64_t i = 0; i < ni; ++i)
          for (int64_t j = i * kLd; j < i * kLd + nj; j += L) store(tile + j, load(tile + j) + load(tile + kTile + j));
      wide -= round_up(length(h), Wide<T>::kCols);
      T *to_a = p.grad_a + i0 * p.d + begin(h), *to_b = (p.symmetric ? p.grad_a : p.grad_b) + j0 * p.d + begin(h);
      block_accumulate<false, T>(tile, kLd, ni, nj, {w.col.columns + wide * p.m, p.m, j0}, to_a, p.d, length(h));
      if (both)
        block_accumulate<true, T>(tile, kLd, nj, ni, {w.row.columns + wide * p.n, p.n, i0}, to_b, p.d, length(h));
    }
  }
};

}  // namespace

template <typename T>
int64_t pairwise_prefixes_workspace(int64_t n, int64_t m, int64_t d, int64_t prefixes, bool symmetric, bool backward) {
  return PrefixBuffers<T>(nullptr, n, m, d, prefixes, symmetric, backward).size;
}
template <typename T>
void pairwise_prefixes_forward(const PairwisePrefixesArgs<T>& args) {
  Prefixes<T>(args, false).forward();
}
template <typename T>
void pairwise_prefixes_backward(const PairwisePrefixesArgs<T>& args) {
  Prefixes<T>(args, true).backward();
}

template int64_t pairwise_prefixes_workspace<float>(int64_t, int64_t, int64_t, int64_t, bool, bool);
template int64_t pairwise_prefixes_workspace<double>(int64_t, int64_t, int64_t, int64_t, bool, bool);
template void pairwise_prefixes_forward<float>(const PairwisePrefixesArgs<float>&);
template void pairwise_prefixes_forward<double>(const PairwisePrefixesArgs<double>&);
template void pairwise_prefixes_backward<float>(const PairwisePrefixesArgs<float>&);
template void pairwise_prefixes_backward<double>(const PairwisePrefixesArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// Log-sum-exp statistics of S = diag(scale) A B^T and their gradient, without storing S.
//
// A task is a pair of row blocks. Its tile of S is computed from packed panels (simd/tile.h), turned into exponentials
// while it is in registers, and used for the statistics or gradients of both blocks (pair_schedule.h): the symmetric
// case does half of the products.
//
// Shift. With r = max |scale a_i| max |b_j| all logits lie in [-r, r]. While r log2(e) stays well inside the exponent
// range no shift is needed and one exponential serves row and column ("narrow"); otherwise a running maximum per row
// and column is kept (forward) and the statistics themselves are the shift (backward, exponents <= 0).
//
// Precision policy: everything in T; contributions are added in an order that depends on the shapes alone.
#pragma once
#include "pairwise/cpu/panels.h"
#include "simd/row_math.h"

namespace sslspec::cpu {
namespace {

template <typename Panels>
struct Softmax : Panels {
  using Base = Panels;
  using T = typename Panels::T;
  using Part = typename Panels::Part;
  using Base::p, Base::w, Base::rows, Base::cols, Base::limit, Base::for_parts, Base::for_tiles, Base::for_kept_tiles,
      Base::logit_scale, Base::L, Base::R, Base::V, Base::kLd, Base::kScale, Base::kTogether, Base::kTileSize,
      Base::put, Base::accumulate;

  bool narrow;

  template <typename Args>
  Softmax(const Args& args, Pass pass) : Base(args, pass) {
    narrow = is_narrow<T>(limit);
  }

  // ---- forward: sums of exp(s - shift), kept in row_weight / col_weight ------------------------------------
  void forward() {
    add_up();
    for_rows(p.n, p.threads, [&](int64_t i) { finish_row(i); });
    if (p.columns) for_rows(p.m, p.threads, [&](int64_t j) { finish_column(j); });
  }

  void add_up() {
    start();
    for_parts(p.columns, [&](const Part& part) { narrow ? sums(part) : running_sums(part); });
  }

  void start() const {
    for (int64_t i = 0; i < p.n; ++i) w.row_shift[i] = narrow ? T(0) : kLowestShift<T>;
    zero(w.row_weight, p.n);
    if (p.symmetric) return;
    for (int64_t j = 0; j < p.m; ++j) w.col_shift[j] = narrow ? T(0) : kLowestShift<T>;
    zero(w.col_weight, p.m);
  }

  static T log_sum(T shift, T sum) { return static_cast<T>(double(shift) + __builtin_log(double(sum))); }
  void finish_row(int64_t i) const { p.row_lse[i] = log_sum(w.row_shift[i], w.row_weight[i]); }
  void finish_column(int64_t j) const { p.col_lse[j] = log_sum(w.col_shift[j], w.col_weight[j]); }

  void sums(const Part& part) const {
    const auto [i0, ni, j0, nj, products, use_rows, use_columns] = part;
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
    Vec<T>* row_sum = static_cast<Vec<T>*>(scratch(1, 4 * sizeof(Vec<T>) * kLd));
    Vec<T>* col_sum = row_sum + kLd;
    for (int64_t i = 0; i < ni; ++i) row_sum[i] = Vec<T>{};
    for (int64_t j = 0; j < nj; j += L) col_sum[j / L] = Vec<T>{};
    const Vec<T> none{};
    T* const keep = use_rows ? products.data : nullptr;  // those of a part of columns are kept with its rows
    for_tiles(i0, ni, j0, nj, tile, logit_scale * kScale,
              [&](int64_t i, int64_t j, const auto& x, auto plain) __attribute__((always_inline)) {
                Vec<T>* cs = col_sum + j / L;
                T* const at = keep == nullptr ? nullptr : products.at(i, j);
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r) {
                  Vec<T> sum{};
#pragma GCC unroll 4
                  for (int v = 0; v < V; ++v) {
                    const Vec<T> e = narrow_power<T, decltype(plain)::value>(x(r, v, none));
                    if (at != nullptr) store(at + (r * V + v) * L, e);
                    sum += e;
                    cs[v] += e;
                  }
                  row_sum[i + r] += sum;
                }
              });
    for (int64_t i = 0; use_rows && i < ni; ++i) w.row_weight[i0 + i] += hsum<T>(row_sum[i]);
    if (use_columns)
      for (int64_t j = 0; j < nj; j += L) {
        T* out = w.col_weight + j0 + j;
        store(out, load(out) + col_sum[j / L]);
      }
  }

  // Lane by lane: the largest logit so far and the sum below it, for the rows and for the columns of the block.
  void running_sums(const Part& part) const {
    const auto [i0, ni, j0, nj, products, use_rows, use_columns] = part;
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
    Vec<T>* row_sum = static_cast<Vec<T>*>(scratch(1, 4 * sizeof(Vec<T>) * kLd));
    Vec<T>*row_top = row_sum + kLd, *col_sum = row_top + kLd, *col_top = col_sum + kLd;
    // Padding rows too: `merge` takes L rows at a time, and the shift of a padding row is that of a padding column.
    for (int64_t i = 0; i < round_up(ni, Blocks::kUnit); ++i)
      row_sum[i] = Vec<T>{}, row_top[i] = splat<T>(kLowestShift<T>);
    for (int64_t j = 0; j < nj; j += L) col_sum[j / L] = Vec<T>{}, col_top[j / L] = splat<T>(kLowestShift<T>);
    const Vec<T> none{};
    for_tiles(
        i0, ni, j0, nj, tile, logit_scale,
        [&](int64_t i, int64_t j, const auto& x, auto) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            Vec<T> top = row_top[i + r];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) top = vmax<T>(x(r, v, none), top);  // a NaN logit makes the sum NaN
            Vec<T> sum = row_sum[i + r] * exp2<T>((row_top[i + r] - top) * kScale);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum += exp2<T>(x(r, v, top) * kScale);
            row_sum[i + r] = sum, row_top[i + r] = top;
          }
          if (!part.to_columns) return;
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            Vec<T>&sum = col_sum[j / L + v], &old = col_top[j / L + v], top = old;
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) top = vmax<T>(x(r, v, none), top);
            sum *= exp2<T>((old - top) * kScale), old = top;
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) sum += exp2<T>(x(r, v, top) * kScale);
          }
        },
        use_rows ? products : KeptTiles<T>{});  // those of a part of columns are kept with its rows
    for (int64_t i = 0; use_rows && i < ni; i += L) {
      T top[L], sum[L];
      for (int64_t l = 0; l < L; ++l) {
        const Vec<T> lanes = row_top[i + l];
        top[l] = hmax<T>(lanes);
        sum[l] = hsum<T>(row_sum[i + l] * exp2<T>((lanes - top[l]) * kScale));
      }
      merge(load(top), load(sum), w.row_shift + i0 + i, w.row_weight + i0 + i);
    }
    if (use_columns)
      for (int64_t j = 0; j < nj; j += L)
        merge(col_top[j / L], col_sum[j / L], w.col_shift + j0 + j, w.col_weight + j0 + j);
  }

  // shift and sum of L rows take in another pair of them
  static void merge(Vec<T> top, Vec<T> sum, T* shift, T* total) {
    const Vec<T> old = load(shift), high = vmax<T>(top, old);
    store(total, load(total) * exp2<T>((old - high) * kScale) + sum * exp2<T>((top - high) * kScale));
    store(shift, high);
  }

  void value_and_grad(const RowsCallback& weigh) {
    add_up();
    for_row_ranges(p.n, p.threads, [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; ++i) finish_row(i);
      weigh(first, end);
      for (int64_t i = first; i < end; ++i) weigh_row(i);
    });
    if (p.columns)
      for_row_ranges(p.m, p.threads, [&](int64_t first, int64_t end) {
        for (int64_t j = first; j < end; ++j) finish_column(j);
        weigh(p.n + first, p.n + end);
        for (int64_t j = first; j < end; ++j) weigh_column(j);
      });
    multiply();
  }

  // ---- backward: W_ij = grad_row_i exp(s_ij - row_lse_i) + grad_col_j exp(s_ij - col_lse_j), then W B and W^T A ----
  void backward() {
    for_rows(p.n, p.threads, [&](int64_t i) { weigh_row(i); });
    if (p.columns) for_rows(p.m, p.threads, [&](int64_t j) { weigh_column(j); });
    multiply();
  }

  void multiply() {
    if (!p.symmetric && !p.columns) zero(w.col_shift, p.m), zero(w.col_weight, p.m);
    T* const grad_b = p.symmetric ? p.grad_a : p.grad_b;
    for_parts(grad_b != nullptr, [&](const Part& part) {
      T* tile = static_cast<T*>(scratch(0, sizeof(T) * kTileSize));
      weights_of_tile(part, tile);
      accumulate(tile, part.i0, part.ni, part.j0, part.nj, part.to_rows ? p.grad_a : nullptr,
                 part.to_columns ? grad_b : nullptr);
    });
  }

  void weigh_row(int64_t i) const { set_weight(p.row_lse[i], p.grad_row[i], w.row_shift[i], w.row_weight[i]); }
  void weigh_column(int64_t j) const { set_weight(p.col_lse[j], p.grad_col[j], w.col_shift[j], w.col_weight[j]); }
  void set_weight(T lse, T grad, T& shift, T& weight) const {
    const bool empty = lse == kNegInf<T>;  // no pair in this row: no gradient
    shift = narrow || empty ? T(0) : lse;
    if (empty || grad == 0)
      weight = 0;
    else
      weight = narrow ? static_cast<T>(double(grad) * __builtin_exp(-double(lse))) : grad;
  }

  // What `sums` kept: powers of 2, not products.
  struct Power {};
  template <typename Kind>
  static inline __attribute__((always_inline)) Vec<T> power_of(Vec<T> x) {
    if constexpr (std::is_same_v<Kind, Power>)
      return x;
    else
      return narrow_power<T, Kind::value>(x);
  }

  // weight(i, j, r, v, x, kind) for every register of the block into tile, kTogether rows at a time; kind: Power, or
  // what `for_tiles` says
  template <bool kPowers, typename Weight>
  inline __attribute__((always_inline)) void fill(const Part& part, T* tile, T c, const Weight& weight) const {
    const auto use = [&](int64_t i, int64_t j, const auto& x, auto plain) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; r += kTogether) {
        Vec<T> e[kTogether][V];
#pragma GCC unroll 2
        for (int s = 0; s < kTogether; ++s)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) e[s][v] = weight(i, j, r + s, v, x, plain);
        put(tile, i + r, j, e);
      }
    };
    if (part.products.data == nullptr) return for_tiles(part.i0, part.ni, part.j0, part.nj, tile, c, use);
    if constexpr (kPowers) {
      for_kept_tiles(part.ni, part.nj, part.products,
                     [&](int64_t i, int64_t j, const auto& e) __attribute__((always_inline)) {
                       use(i, j, [&](int r, int v, Vec<T>) __attribute__((always_inline)) { return e[r][v]; }, Power{});
                     });
    } else {
      BlockMask<T> left_out(p, part.i0, part.ni, part.j0, part.nj);
      for_kept_tiles(part.ni, part.nj, part.products,
                     [&](int64_t i, int64_t j, const auto& acc)
                         __attribute__((always_inline)) { this->use_tile(left_out, i, j, acc, c, use); });
    }
  }

  void weights_of_tile(const Part& part, T* tile) const {
    const T *row_weight = w.row_weight + part.i0, *col_weight = w.col_weight + part.j0;
    const T *row_shift = w.row_shift + part.i0, *col_shift = w.col_shift + part.j0;
    const Vec<T> none{};
    if (narrow)
      fill<true>(part, tile, logit_scale * kScale,
                 [&](int64_t i, int64_t j, int r, int v, const auto& x, auto kind) __attribute__((always_inline)) {
                   const Vec<T> g = load(col_weight + j + v * L) + row_weight[i + r];
                   return power_of<decltype(kind)>(x(r, v, none)) * g;
                 });
    else if (p.symmetric || p.columns)
      fill<false>(part, tile, logit_scale,
                  [&](int64_t i, int64_t j, int r, int v, const auto& x, auto) __attribute__((always_inline)) {
                    const Vec<T> column = exp2<T>(x(r, v, load(col_shift + j + v * L)) * kScale);
                    return exp2<T>(x(r, v, splat<T>(row_shift[i + r])) * kScale) * row_weight[i + r] +
                           column * load(col_weight + j + v * L);
                  });
    else
      fill<false>(part, tile, logit_scale,
                  [&](int64_t i, int64_t, int r, int v, const auto& x, auto) __attribute__((always_inline)) {
                    return exp2<T>(x(r, v, splat<T>(row_shift[i + r])) * kScale) * row_weight[i + r];
                  });
  }
};

// Rows with one positive and the gradient of their weighted sum (args: OnePositiveArgs of value_and_grad.h): statistics,
// the losses of the rows, and the gradient from the same panels and the products that were kept.
template <typename Panels, typename Args>
void one_positive(const Args& args) {
  auto p = args.pairwise;
  p.grad_row = args.grad_positive;
  using T = typename Panels::T;
  T *rows = p.row_lse, *slope = args.grad_positive;
  const auto margin = [&](int64_t i) { return double(rows[i]) - double(args.positive[i]); };
  // a row without any pair has the margin -inf, and neither loss nor slope
  const auto weigh = [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i)
      slope[i] = static_cast<T>(sigmoid(margin(i)) * double(args.pairwise.grad_row[i]));
  };
  Softmax<Panels>(p, Pass::both).value_and_grad(RowsCallback::to(weigh));
  for_rows(p.n, p.threads, [&](int64_t i) {
    rows[i] = static_cast<T>(softplus(margin(i)));
    slope[i] = -slope[i];
  });
}

}  // namespace
}  // namespace sslspec::cpu

// Row sums of softplus(scale a_i . b_j + bias) and their gradient, without storing the logits. Same blocks and schedule
// as the softmax part (softmax.h). softplus(x) = max(x, 0) + log1p(exp(-|x|)): no overflow, and full relative accuracy
// for very negative logits, which is where sigmoid losses start (bias = -10).
#pragma once
#include "pairwise/cpu/panels.h"

namespace sslspec::cpu {
namespace {

// log(1 + t) for 0 <= t <= 1: 2 artanh(z), z = t / (2 + t) <= 1/3, as a series in z^2 whose remainder is below
// rounding.
template <typename T>
inline __attribute__((always_inline)) Vec<T> log1p_unit(Vec<T> t) {
  constexpr int kTerms = sizeof(T) == 4 ? 8 : 17;
  const Vec<T> z = t / (t + T(2)), q = z * z;
  Vec<T> sum = splat<T>(T(1) / T(2 * kTerms - 1));
#pragma GCC unroll 17
  for (int k = kTerms - 2; k >= 0; --k) sum = sum * q + T(1) / T(2 * k + 1);
  return (z + z) * sum;
}

template <typename Panels>
struct Sigmoid : Panels {
  using Base = Panels;
  using T = typename Panels::T;
  using Part = typename Panels::Part;
  using Base::p, Base::for_parts, Base::for_tiles, Base::logit_scale, Base::L, Base::R, Base::V, Base::kLd,
      Base::kScale, Base::kTogether, Base::kTileSize, Base::put, Base::accumulate;
  T bias;

  template <typename Args>
  Sigmoid(const Args& args, Pass pass) : Base(args, pass), bias(args.bias[0]) {}

  static Vec<T> magnitude(Vec<T> x) { return x < Vec<T>{} ? -x : x; }

  // max(x, 0) + log1p(t), t = exp(-|x|); pairs that are left out are -inf and add softplus(-inf) = 0
  static inline __attribute__((always_inline)) Vec<T> softplus(Vec<T> x, Vec<T> t) {
    return (x < Vec<T>{} ? Vec<T>{} : x) + log1p_unit<T>(t);
  }
  static inline __attribute__((always_inline)) Vec<T> decay(Vec<T> x) { return exp2<T>(-magnitude(x) * kScale); }
  // the derivative of softplus, from the same t
  static inline __attribute__((always_inline)) Vec<T> slope(Vec<T> x, Vec<T> t) {
    return (x < Vec<T>{} ? t : splat<T>(1)) / (t + T(1));
  }

  // out[k]_i += sum_j f(i, x)[k] for k < kSums, x the logits with the bias; what f returns goes into the tile if it is
  // to be filled.
  template <int kSums, bool kFill, typename F>
  inline __attribute__((always_inline)) void add_rows(const Part& part, T* tile, T* const* out, const F& f) const {
    const int64_t i0 = part.i0, ni = part.ni;
    Vec<T>* row_sum = static_cast<Vec<T>*>(scratch(1, kSums * sizeof(Vec<T>) * kLd));
    for (int64_t i = 0; i < kSums * kLd; ++i) row_sum[i] = Vec<T>{};
    const T* each = nullptr;  // the scale of each row
    const auto use = [&](int64_t i, int64_t j, const auto& x, auto) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; r += kTogether) {
        Vec<T> e[kTogether][V];
#pragma GCC unroll 2
        for (int s = 0; s < kTogether; ++s) {
          Vec<T> sum[kSums] = {};
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) e[s][v] = f(i + r + s, x(r + s, v, splat<T>(-bias)), sum);
          for (int k = 0; k < kSums; ++k) row_sum[k * kLd + i + r + s] += sum[k];
        }
        if constexpr (kFill) put(tile, i + r, j, e);
      }
    };
    if constexpr (!Base::kScaled)
      if (this->row_scale != nullptr) each = this->row_scale + i0;
    if (each == nullptr)
      for_tiles(i0, ni, part.j0, part.nj, tile, logit_scale, use);
    else if constexpr (!Base::kScaled)
      for_tiles(i0, ni, part.j0, part.nj, tile, RowFactors<T>{each}, use);
    for (int k = 0; k < kSums; ++k)
      for (int64_t i = 0; part.to_rows && i < ni; ++i) out[k][i0 + i] += hsum<T>(row_sum[k * kLd + i]);
  }

  void forward() {
    zero(p.row_lse, p.n);
    for_parts(false, [&](const Part& part) {
      T* tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
      add_rows<1, false>(part, tile, &p.row_lse, [](int64_t, Vec<T> x, Vec<T>* sum) __attribute__((always_inline)) {
        sum[0] += softplus(x, decay(x));
        return x;
      });
    });
  }

  // W_ij = grad_row_i sigmoid(s_ij + bias); row_lse receives sum_j W_ij, the gradient of the bias by rows, and row_sum
  // the row sums where it is not null.
  template <bool kValue>
  void backward_with() {
    zero(p.row_lse, p.n);
    if (kValue) zero(p.row_sum, p.n);
    for_parts(p.grad_b != nullptr, [&](const Part& part) {
      T* tile = static_cast<T*>(scratch(0, sizeof(T) * kTileSize));
      T* const out[2] = {p.row_lse, p.row_sum};
      const auto weigh = [&](int64_t i, Vec<T> x, Vec<T>* sum) __attribute__((always_inline)) {
        const Vec<T> t = decay(x);
        const T weight = i < part.ni ? p.grad_row[part.i0 + i] : T(0);
        const Vec<T> g = weight * slope(x, t);
        sum[0] += g;
        if constexpr (kValue) sum[1] += softplus(x, t);
        return g;
      };
      add_rows<kValue ? 2 : 1, true>(part, tile, out, weigh);
      accumulate(tile, part.i0, part.ni, part.j0, part.nj, part.to_rows ? p.grad_a : nullptr,
                 part.to_columns ? p.grad_b : nullptr);
    });
  }

  void backward() { p.row_sum == nullptr ? backward_with<false>() : backward_with<true>(); }
};

}  // namespace
}  // namespace sslspec::cpu

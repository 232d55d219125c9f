// Losses of two views and their gradient around `pairwise`: what is done per row here would cost a small batch a dozen
// operators.
//
// Precision policy: norms, normalisation, one softplus per row and the sum over rows in fp64 (a rounded norm would
// scale all logits of its row); other dot products of a row in T, lane by lane. Rows in bfloat16 are for the products of
// all pairs alone: positives and the projection use those in T. The weights of those products are bfloat16 then, and
// most of a peaked softmax are the same multiple of one row's: of 1, which is exact, after a division by the largest.
#include "fused/cpu/two_views.h"

#include "simd/bfloat16.h"
#include "simd/row_math.h"
#include "simd/scratch.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T, typename Value>
struct TwoViews {
  using Args = TwoViewsArgs<T, Value>;
  const Args& p;
  RowLength<T> length = RowLength<T>::unit();

  int view(int64_t i) const { return i >= p.n; }
  int64_t other(int64_t i) const { return i < p.n ? i + p.n : i - p.n; }
  const Value* given(int64_t i) const { return p.z[view(i)] + (i - view(i) * p.n) * p.ldz[view(i)]; }
  // Memory for `count` rows that are not kept.
  T* room(int64_t count) const {
    return Args::kNarrow ? static_cast<T*>(scratch(0, sizeof(T) * static_cast<size_t>(count * p.d))) : nullptr;
  }
  // Row i as it enters the products, in `memory` if it is not kept.
  const T* row(int64_t i, T* memory) const {
    if constexpr (Args::kNarrow) {
      wide_row(given(i), p.d, memory);
      if (!p.unit) return memory;
      const T s = p.factor_of_row[i];
      for (int64_t k = 0; k < p.d; ++k) memory[k] *= s;
      return memory;
    } else {
      return p.unit ? p.u + i * p.d : given(i);
    }
  }
  double positive(int64_t i) const {
    T* const memory = room(2);
    const T* x = row(i, memory);
    return double(p.scale) * double(row_dot(x, row(other(i), memory + (Args::kNarrow ? p.d : 0)), p.d));
  }
  double weight(int64_t i) const { return p.weight == nullptr ? 1 : double(p.weight[i - view(i) * p.n]) / p.largest; }

  void make_row(int64_t i) const {
    T* const memory = room(1);
    if (p.unit) {
      const T* __restrict z = wide_row(given(i), p.d, memory);
      const double norm = row_norm(z, p.d), s = length.factor(norm);
      p.norm[i] = static_cast<T>(norm);
      if (Args::kNarrow) p.factor_of_row[i] = static_cast<T>(length.factor(double(p.norm[i])));
      if (!Args::kNarrow) {
        T* __restrict u = p.u + i * p.d;
        for (int64_t k = 0; k < p.d; ++k) u[k] = static_cast<T>(double(z[k]) * s);
      }
    }
    if constexpr (sizeof(T) == sizeof(float))
      if (p.half != nullptr) round_row(row(i, memory), p.d, reinterpret_cast<Bfloat16*>(p.half + i * p.d));
  }

  void lose(int64_t i) const {
    const bool sigmoid_form = p.form == ViewForm::sigmoid;
    const double margin = (sigmoid_form ? -double(p.bias) : double(p.negatives[i])) - positive(i);
    p.losses[i] = static_cast<T>(softplus(margin) + (sigmoid_form ? double(p.negatives[i]) : 0));
    if (p.own != nullptr) p.own[i] = static_cast<T>(sigmoid(margin) * weight(i));
  }

  void gradient(int64_t i) const {
    const int64_t at = (i - view(i) * p.n) * p.d;
    if (p.grad_z[view(i)] == nullptr) return;
    T* const memory = room(2);
    const T *v = p.v[view(i)] + at, *x = row(i, memory), *y = row(other(i), memory + (Args::kNarrow ? p.d : 0));
    T* out = p.grad_z[view(i)] + at;
    const T both = (p.own[i] + p.own[other(i)]) * p.applied[view(i)];
    const T scale = static_cast<T>(double(p.scale) * p.factor * p.largest / double(p.applied[view(i)]));
    for (int64_t k = 0; k < p.d; ++k) out[k] = v[k] - both * y[k];
    p.along[i] = row_dot(x, out, p.d);
    if (p.unit)
      length.backward(double(p.norm[i]), x, p.along[i], scale, p.d, out);
    else
      for (int64_t k = 0; k < p.d; ++k) out[k] *= scale;
  }
};

}  // namespace

template <typename T, typename Value>
void views_rows(const TwoViewsArgs<T, Value>& args, int64_t first, int64_t end) {
  const TwoViews<T, Value> views{args};
  for (int64_t i = first; (args.unit || args.half != nullptr) && i < end; ++i) views.make_row(i);
  for (int64_t i = first; args.own != nullptr && i < end; ++i)
    args.own[i] = i < args.anchors() ? static_cast<T>(views.weight(i)) : T(0);
}
template <typename T, typename Value>
void views_positives(const TwoViewsArgs<T, Value>& args) {
  const TwoViews<T, Value> views{args};
  for_rows(args.n, args.threads, [&](int64_t i) { args.along[i] = static_cast<T>(views.positive(i)); });
}
template <typename T, typename Value>
void views_losses(const TwoViewsArgs<T, Value>& args, int64_t first, int64_t end) {
  const TwoViews<T, Value> views{args};
  for (int64_t i = first; i < end; ++i) views.lose(i);
}
template <typename T, typename Value>
void views_total(const TwoViewsArgs<T, Value>& args) {
  double total = 0;
  for (int64_t i = 0; i < args.n; ++i) {
    double sum = double(args.losses[i]);
    if (args.anchors() > args.n) sum += double(args.losses[i + args.n]);
    if (args.samples != nullptr) args.samples[i] = static_cast<T>(args.factor * sum);
    total += args.weight == nullptr ? sum : sum * double(args.weight[i]);
  }
  *args.loss = static_cast<T>(args.factor * total);
}
template <typename T, typename Value>
void views_gradient(const TwoViewsArgs<T, Value>& args) {
  const TwoViews<T, Value> views{args};
  for_rows(2 * args.n, args.threads, [&](int64_t i) { views.gradient(i); });
  if (args.grad_bias != nullptr) {
    double all = 0;
    for (int64_t i = 0; i < args.n; ++i) all += double(args.of_bias[i]) - double(args.own[i]);
    *args.grad_bias = static_cast<T>(args.factor * args.largest * all);
  }
  if (args.grad_scale == nullptr) return;
  // c u_i . u_k counts for both of its rows in the stacked form, for one of each view else
  const bool stacked = args.form == ViewForm::stacked;
  double sum = 0;
  for (int64_t i = 0; i < (stacked ? 2 : 1) * args.n; ++i) sum += double(args.along[i]);
  *args.grad_scale = static_cast<T>(args.factor * args.largest * (stacked ? 0.5 : 1) * sum);
}

#define SSLSPEC_VIEWS(...)                                                        \
  template void views_rows(const TwoViewsArgs<__VA_ARGS__>&, int64_t, int64_t);   \
  template void views_positives(const TwoViewsArgs<__VA_ARGS__>&);                \
  template void views_losses(const TwoViewsArgs<__VA_ARGS__>&, int64_t, int64_t); \
  template void views_total(const TwoViewsArgs<__VA_ARGS__>&);                    \
  template void views_gradient(const TwoViewsArgs<__VA_ARGS__>&);
SSLSPEC_VIEWS(float)
SSLSPEC_VIEWS(float, Bfloat16)
SSLSPEC_VIEWS(double)
#undef SSLSPEC_VIEWS

}  // namespace sslspec::cpu::SSLSPEC_ISA

// Rows of NT-Xent and their gradient around the symmetric case of `pairwise`: what is done per row here would cost a
// small batch a dozen operators.
//
// Precision policy: norms, normalisation, one softplus per row and the sum over rows in fp64 (a rounded norm would
// scale all logits of its row); other dot products of a row in T, lane by lane. Rows in bfloat16 are for the products of
// all pairs alone: positives and the projection use those in T.
#include <cstring>
#include <type_traits>

#include "fused/cpu/two_views.h"
#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct TwoView {
  const TwoViewsArgs<T>& p;
  RowLength<T> length = RowLength<T>::unit();

  const T* row(int64_t i) const { return p.u + i * p.d; }
  int64_t other(int64_t i) const { return i < p.n ? i + p.n : i - p.n; }
  double margin(int64_t i) const {
    return double(p.negatives[i]) - double(*p.scale) * double(row_dot(row(i), row(other(i)), p.d));
  }

  // to nearest, ties to even; NaN of any bits stays NaN
  static uint16_t rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return x != x ? uint16_t{0x7fc0} : static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
  }
  void round_row(int64_t i) const {
    if (p.half == nullptr) return;
    for (int64_t k = i * p.d; k < (i + 1) * p.d; ++k) p.half[k] = rounded(static_cast<float>(p.u[k]));
  }

  void unit_row(int64_t i) const {
    const int view = i >= p.n;
    const T* __restrict z = p.z[view] + (i - view * p.n) * p.ldz[view];
    T* __restrict u = p.u + i * p.d;
    const double norm = row_norm(z, p.d), s = length.factor(norm);
    p.norm[i] = static_cast<T>(norm);
    for (int64_t k = 0; k < p.d; ++k) u[k] = static_cast<T>(double(z[k]) * s);
    round_row(i);
  }

  void weigh(int64_t i) const {
    p.weight[i] = static_cast<T>(sigmoid(margin(i)) * double(p.grad[i]));
    round_row(i);
  }

  void gradient(int64_t i) const {
    T* __restrict v = p.grad_z + i * p.d;
    const T* __restrict u = row(i);
    const T* __restrict partner = row(other(i));
    const T both = p.weight[i] + p.weight[other(i)];
    for (int64_t k = 0; k < p.d; ++k) v[k] -= both * partner[k];
    p.along[i] = row_dot(u, v, p.d);
    length.backward(double(p.norm[i]), u, p.along[i], *p.scale, p.d, v);
  }
};

}  // namespace

template <typename T>
void views_unit_rows(const TwoViewsArgs<T>& args) {
  const TwoView<T> views{args};
  for_rows(2 * args.n, args.threads, [&](int64_t i) { views.unit_row(i); });
}
template <typename T>
void views_losses(const TwoViewsArgs<T>& args) {
  const TwoView<T> views{args};
  for_rows(2 * args.n, args.threads, [&](int64_t i) { args.rows[i] = static_cast<T>(softplus(views.margin(i))); });
}
template <typename T>
void views_weights(const TwoViewsArgs<T>& args) {
  const TwoView<T> views{args};
  for_rows(2 * args.n, args.threads, [&](int64_t i) { views.weigh(i); });
}
template <typename T>
void views_gradient(const TwoViewsArgs<T>& args) {
  const TwoView<T> views{args};
  for_rows(2 * args.n, args.threads, [&](int64_t i) { views.gradient(i); });
  double sum = 0;
  for (int64_t i = 0; i < 2 * args.n; ++i) sum += double(args.along[i]);
  *args.grad_scale = static_cast<T>(0.5 * sum);
}

template void views_unit_rows<float>(const TwoViewsArgs<float>&);
template void views_unit_rows<double>(const TwoViewsArgs<double>&);
template void views_losses<float>(const TwoViewsArgs<float>&);
template void views_losses<double>(const TwoViewsArgs<double>&);
template void views_weights<float>(const TwoViewsArgs<float>&);
template void views_weights<double>(const TwoViewsArgs<double>&);
template void views_gradient<float>(const TwoViewsArgs<float>&);
template void views_gradient<double>(const TwoViewsArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// Rows of NT-Xent and their gradient around the symmetric case of `pairwise`: what is done per row here would cost a
// small batch a dozen operators.
//
// Precision policy: norms, normalisation, one softplus per row and the sum over rows in fp64 (a rounded norm would
// scale all logits of its row); other dot products of a row in T, lane by lane.
#include "fused/cpu/two_views.h"

#include "pairwise/cpu/pairwise.h"
#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct TwoView {
  const TwoViewsArgs<T>& p;
  RowLength<T> length = RowLength<T>::unit();
  int32_t* ids;       // [2 n]: both views of a sample share its number
  T *weight, *along;  // [2 n]
  T* pairwise_memory;

  TwoView(const TwoViewsArgs<T>& args) : p(args) {
    const int64_t part = vector_size(p.n);
    ids = reinterpret_cast<int32_t*>(p.workspace);
    weight = p.workspace + part, along = weight + part, pairwise_memory = along + part;
    for (int64_t i = 0; i < 2 * p.n; ++i) ids[i] = static_cast<int32_t>(i % p.n);
  }
  static int64_t vector_size(int64_t n) { return (2 * n + 63) / 64 * 64; }

  PairwiseArgs<T> pairwise() const {
    PairwiseArgs<T> q{};
    q.a = q.b = p.u, q.lda = q.ldb = q.d = p.d, q.n = q.m = 2 * p.n;
    q.scale = p.scale, q.ids_a = q.ids_b = ids, q.skip_self = q.symmetric = true;
    q.row_lse = p.negatives, q.grad_row = weight, q.grad_a = p.grad_z;
    q.workspace = pairwise_memory, q.threads = p.threads;
    return q;
  }

  const T* row(int64_t i) const { return p.u + i * p.d; }
  int64_t other(int64_t i) const { return i < p.n ? i + p.n : i - p.n; }
  double margin(int64_t i) const {
    return double(p.negatives[i]) - double(*p.scale) * double(row_dot(row(i), row(other(i)), p.d));
  }

  void forward() const {
    for_rows(2 * p.n, p.threads, [&](int64_t i) {
      const int view = i >= p.n;
      const T* __restrict z = p.z[view] + (i - view * p.n) * p.ldz[view];
      T* __restrict u = p.u + i * p.d;
      const double norm = row_norm(z, p.d), s = length.factor(norm);
      p.norm[i] = static_cast<T>(norm);
      for (int64_t k = 0; k < p.d; ++k) u[k] = static_cast<T>(double(z[k]) * s);
    });
    pairwise_forward<T>(pairwise());
    for_rows(2 * p.n, p.threads, [&](int64_t i) { p.rows[i] = static_cast<T>(softplus(margin(i))); });
  }

  void backward() const {
    for_rows(2 * p.n, p.threads,
             [&](int64_t i) { weight[i] = static_cast<T>(sigmoid(margin(i)) * double(p.grad[i])); });
    pairwise_backward<T>(pairwise());
    for_rows(2 * p.n, p.threads, [&](int64_t i) {
      T* __restrict v = p.grad_z + i * p.d;
      const T* __restrict u = row(i);
      const T* __restrict partner = row(other(i));
      const T both = weight[i] + weight[other(i)];
      for (int64_t k = 0; k < p.d; ++k) v[k] -= both * partner[k];
      along[i] = row_dot(u, v, p.d);
      length.backward(double(p.norm[i]), u, along[i], *p.scale, p.d, v);
    });
    double sum = 0;
    for (int64_t i = 0; i < 2 * p.n; ++i) sum += double(along[i]);
    *p.grad_scale = static_cast<T>(0.5 * sum);
  }
};

}  // namespace

template <typename T>
int64_t two_views_workspace(int64_t n, int64_t d, bool backward) {
  return 3 * TwoView<T>::vector_size(n) + pairwise_workspace<T>(2 * n, 2 * n, d, true, backward);
}
template <typename T>
void two_views_forward(const TwoViewsArgs<T>& args) {
  TwoView<T>(args).forward();
}
template <typename T>
void two_views_backward(const TwoViewsArgs<T>& args) {
  TwoView<T>(args).backward();
}

template int64_t two_views_workspace<float>(int64_t, int64_t, bool);
template int64_t two_views_workspace<double>(int64_t, int64_t, bool);
template void two_views_forward<float>(const TwoViewsArgs<float>&);
template void two_views_forward<double>(const TwoViewsArgs<double>&);
template void two_views_backward<float>(const TwoViewsArgs<float>&);
template void two_views_backward<double>(const TwoViewsArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

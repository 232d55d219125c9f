// Rows of unit or bounded length and their gradient: one pass over the rows either way, a row staying in the L1 cache.
//
// Precision policy: norms and factors in fp64, dot products in T.
#include "rows/cpu/unit_rows.h"

#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
RowLength<T> length_of(const UnitRowsArgs<T>& p) {
  return p.longest > 0 ? RowLength<T>::at_most(p.longest) : RowLength<T>::unit();
}

// g += s y, then through the length
template <typename T>
void row_gradient(const UnitRowsArgs<T>& p, const RowLength<T>& length, int o, int64_t i) {
  constexpr int L = kLanes<T>;
  const int64_t d = p.d;
  const T* x = p.x[o] + i * d;
  const T* g = p.grad[o] + i * p.ldg[o];
  const T* y = p.operands == 2 && p.grad_dot != nullptr ? p.x[1 - o] + i * d : nullptr;
  T* out = p.grad_z[o] + i * d;
  const T s = y == nullptr ? T(0) : p.grad_dot[i];
  Vec<T> lanes{};
  T sum = 0;
  int64_t k = 0;
  for (; k + L <= d; k += L) {
    Vec<T> v = load(g + k);
    if (y != nullptr) v += s * load(y + k);
    lanes += v * load(x + k);
    store(out + k, v);
  }
  for (; k < d; ++k) {
    out[k] = y == nullptr ? g[k] : g[k] + s * y[k];
    sum += out[k] * x[k];
  }
  length.backward(double(p.norm[o][i]), x, hsum<T>(lanes) + sum, T(1), d, out);
}

}  // namespace

template <typename T>
void unit_rows_forward(const UnitRowsArgs<T>& p) {
  const RowLength<T> length = length_of(p);
  for_rows(p.n, p.threads, [&](int64_t i) {
    for (int o = 0; o < p.operands; ++o) {
      const T* __restrict z = p.z[o] + i * p.ldz[o];
      T* __restrict x = p.x[o] + i * p.d;
      const double norm = row_norm(z, p.d), factor = length.factor(norm);
      p.norm[o][i] = static_cast<T>(norm);
      for (int64_t k = 0; k < p.d; ++k) x[k] = static_cast<T>(double(z[k]) * factor);
    }
    if (p.operands == 2) p.dot[i] = row_dot(p.x[0] + i * p.d, p.x[1] + i * p.d, p.d);
  });
}

template <typename T>
void unit_rows_backward(const UnitRowsArgs<T>& p) {
  const RowLength<T> length = length_of(p);
  for_rows(p.n, p.threads, [&](int64_t i) {
    for (int o = 0; o < p.operands; ++o) row_gradient(p, length, o, i);
  });
}

template void unit_rows_forward<float>(const UnitRowsArgs<float>&);
template void unit_rows_forward<double>(const UnitRowsArgs<double>&);
template void unit_rows_backward<float>(const UnitRowsArgs<float>&);
template void unit_rows_backward<double>(const UnitRowsArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

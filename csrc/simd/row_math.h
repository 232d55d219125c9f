// Sums over one row of a matrix, its length, and the loss of a row with one positive. Included by *.kernel.cpp only.
//
// Precision policy: squares in fp64 (a rounded norm would scale all products of its row), dot products in T, lane by
// lane.
#pragma once
#include <cmath>

#include "simd/parallel.h"
#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

// f(i) for the rows [0, n)
template <typename F>
void for_rows(int64_t n, int threads, const F& f) {
  for_row_ranges(n, threads, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) f(i);
  });
}

// (fx x) . (fy y): the factors are applied first, because the products of long rows may overflow
template <typename T>
T row_dot(const T* x, const T* y, int64_t d, T fx = 1, T fy = 1) {
  constexpr int L = kLanes<T>;
  Vec<T> sum{};
  int64_t k = 0;
  for (; k + L <= d; k += L) sum += (fx * load(x + k)) * (fy * load(y + k));
  T total = hsum<T>(sum);
  for (; k < d; ++k) total += (fx * x[k]) * (fy * y[k]);
  return total;
}

template <typename T>
double row_square(const T* x, int64_t d) {
  double lane[8] = {}, total = 0;
  int64_t k = 0;
  for (; k + 8 <= d; k += 8)
    for (int l = 0; l < 8; ++l) lane[l] += double(x[k + l]) * double(x[k + l]);
  for (; k < d; ++k) total += double(x[k]) * double(x[k]);
  for (const double sum : lane) total += sum;
  return total;
}
template <typename T>
double row_norm(const T* x, int64_t d) {
  return std::sqrt(row_square(x, d));
}

// The loss of a row, by how much its negatives exceed its positive, and the probability of a mistake.
inline double softplus(double margin) { return (margin > 0 ? margin : 0) + std::log1p(std::exp(-std::fabs(margin))); }
inline double sigmoid(double margin) {
  const double t = std::exp(-std::fabs(margin));
  return (margin < 0 ? t : 1) / (1 + t);
}

// x = f(|z|) z with f = longest / |z| for rows of at least `from`, and a constant below. Norms are kept in T: which
// rows are cut is decided on the rounded norm, so that both passes agree.
template <typename T>
struct RowLength {
  double longest, from, below;

  // Unit rows as torch.nn.functional.normalize makes them: z / max(|z|, 1e-12)
  static RowLength unit() { return {1, 1e-12, 1e12}; }
  // Rows no longer than `longest`
  static RowLength at_most(double longest) { return {longest, longest, 1}; }

  bool cut(double norm) const { return !(static_cast<T>(norm) < static_cast<T>(from)); }  // keeps NaN
  double factor(double norm) const { return cut(norm) ? longest / norm : below; }
  // From the gradient g of x to that of z, given g . x: factor (g - x (g . x) / longest^2), times `scale`; a constant
  // factor projects nothing out.
  void backward(double norm, const T* __restrict x, T dot, T scale, int64_t d, T* __restrict g) const {
    const T along = static_cast<T>(cut(norm) ? double(dot) / (longest * longest) : 0);
    const T f = static_cast<T>(double(scale) * factor(norm));
    for (int64_t k = 0; k < d; ++k) g[k] = f * (g[k] - along * x[k]);
  }
};

}  // namespace
}  // namespace sslspec::cpu

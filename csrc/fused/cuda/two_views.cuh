// Kernels around the products of `two_views`: rows -> unit rows, statistics -> loss, and back.
//
// Tiling: a warp per pair of rows, lanes over the columns in packs of 16 bytes where rows are aligned; a thread per
// anchor elsewhere. Memory traffic: every row is read twice in a pass, the second time from a cache.
// Precision policy: float32 (float64 for float64 rows) along a row, in a fixed order; float64 for sums over anchors.
#pragma once
#include <type_traits>

#include "gpu/types.cuh"
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {

template <typename Z>
using Real = typename Computed<Z>::type;
template <typename Z>
using Multiplied = std::conditional_t<std::is_same_v<Z, __nv_bfloat16>, __nv_bfloat16, Real<Z>>;

// No row of u is longer, however its elements were rounded.
inline constexpr float kUnitBound = 1.004f;

template <typename T>
struct ViewStats {  // the parts of `stats`
  T *norm, *dot, *negatives, *scale;
  int32_t* ids;
  BlockBound* bounds;
};

// What the kernels of `pairwise` are told about row i of operand o, written by one thread per row: both views of a
// sample share its number, and a block of stacked rows that holds parts of both views may hold any.
template <typename T>
__device__ __forceinline__ void mark_row(const ViewStats<T>& stats, int64_t n, bool stacked, int o, int64_t i) {
  if (!stacked) {
    if (i % kBoundRows == 0)
      stats.bounds[o * ceil_div(n, kBoundRows) + i / kBoundRows] = {kUnitBound, kUnitBound, 0, 0};
    return;
  }
  const int64_t row = o * n + i;
  stats.ids[row] = static_cast<int32_t>(i);
  if (row % kBoundRows != 0) return;
  const int64_t end = row + kBoundRows < 2 * n ? row + kBoundRows : 2 * n;
  const bool mixed = row < n && end > n;
  const int64_t first = mixed ? 0 : i, last = mixed ? n - 1 : i + (end - row) - 1;
  stats.bounds[row / kBoundRows] = {kUnitBound, kUnitBound, static_cast<int32_t>(first), static_cast<int32_t>(last)};
}

template <typename Z>
struct ViewRows {
  using T = Real<Z>;
  int64_t n, d, width;
  const Z* z[2];
  int64_t ld[2];
  Multiplied<Z>* u;  // null: z is what is multiplied
  ViewStats<T> stats;
  bool unit, stacked;
};

template <typename T>
__device__ __forceinline__ T unit_factor(T norm) {  // as torch.nn.functional.normalize; keeps NaN
  constexpr T kSmallest = static_cast<T>(1e-12);
  return norm < kSmallest ? 1 / kSmallest : 1 / norm;
}

constexpr int kViewThreads = 256, kViewWarps = kViewThreads / 32;

template <typename Z, int kWidth>
__global__ void __launch_bounds__(kViewThreads)
    views_unit_kernel(const __grid_constant__ ViewRows<Z> p, const Real<Z>* scale, Real<Z> number) {
  using T = Real<Z>;
  using P = Pack<Z, kWidth>;
  using U = Pack<Multiplied<Z>, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kViewWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  const int lane = threadIdx.x % 32;
  T factor[2] = {1, 1};
#pragma unroll
  for (int o = 0; o < 2; ++o) {
    if (!p.unit) break;
    T square = 0;
    for (int64_t c = lane * kWidth; c < p.d; c += 32 * kWidth) {
      const P z = *reinterpret_cast<const P*>(p.z[o] + i * p.ld[o] + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) square += widened(z.v[k]) * widened(z.v[k]);
    }
    const T norm = sqrt(warp_sum(square));
    factor[o] = unit_factor(norm);
    if (lane == 0) p.stats.norm[o * p.n + i] = norm, mark_row(p.stats, p.n, p.stacked, o, i);
  }
  T dot = 0;
  for (int64_t c = lane * kWidth; c < p.d; c += 32 * kWidth) {
    T x[2][kWidth];
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      const P z = *reinterpret_cast<const P*>(p.z[o] + i * p.ld[o] + c);
      U u;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) x[o][k] = widened(z.v[k]) * factor[o], u.v[k] = narrowed<Multiplied<Z>>(x[o][k]);
      if (p.u != nullptr) *reinterpret_cast<U*>(p.u + (o * p.n + i) * p.width + c) = u;
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) dot += x[0][k] * x[1][k];
  }
  for (int64_t c = p.d + lane; p.u != nullptr && c < p.width; c += 32)
    p.u[i * p.width + c] = p.u[(p.n + i) * p.width + c] = narrowed<Multiplied<Z>>(0);
  dot = warp_sum(dot);
  if (lane != 0) return;
  p.stats.dot[i] = dot;
  if (i == 0) *p.stats.scale = scale == nullptr ? number : *scale;
}

__device__ __forceinline__ double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }
__device__ __forceinline__ double sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

// The sums over slots that become the negatives of some anchors; null: those are there already.
struct ViewParts {
  const Partial* parts;
  int64_t slots;
};

// Stacked: a loss for each of the 2n rows. Otherwise n: of the rows, or the mean of rows and columns.
template <typename T>
__global__ void __launch_bounds__(kViewThreads)
    views_loss_kernel(ViewStats<T> stats, int64_t n, bool stacked, bool columns, ViewParts by_row, ViewParts by_column,
                      T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kViewThreads + threadIdx.x, anchors = stacked ? 2 * n : n;
  if (i >= anchors) return;
  const T positive = *stats.scale * stats.dot[i < n ? i : i - n];
  if (by_row.parts != nullptr) stats.negatives[i] = merged_log(by_row.parts, by_row.slots, anchors, i);
  T loss = softplus(stats.negatives[i] - positive);
  if (columns) {
    if (by_column.parts != nullptr) stats.negatives[n + i] = merged_log(by_column.parts, by_column.slots, n, i);
    loss = (loss + softplus(stats.negatives[n + i] - positive)) / 2;
  }
  out[i] = loss;
}

// out = weight times the sum of n values: one block, in an order that n alone decides
constexpr int kSumThreads = 1024;
template <typename T>
__global__ void __launch_bounds__(kSumThreads) views_sum_kernel(const T* x, int64_t n, double weight, T* out) {
  __shared__ double slots[kSumThreads / 32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) sum += static_cast<double>(x[i]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = warp_sum(slots[threadIdx.x]);
  if (threadIdx.x == 0) *out = static_cast<T>(weight * sum);
}

template <typename T>
struct LossGradient {  // of row i of operand o: value[o * stride[0] + i * stride[1]] * weight
  const T* value;
  int64_t stride[2];
  T weight;
};

// The factors w of 2n rows (of the second operand: zero where it has none), and in float32 the weights of them.
template <typename T>
__global__ void __launch_bounds__(kViewThreads)
    views_factor_kernel(ViewStats<T> stats, int64_t n, bool second, const __grid_constant__ Pairs pairs,
                        LossGradient<T> grad, T* factors, Weight* weights, Weight* second_weights) {
  __shared__ float slots[kViewWarps];
  const float limit = weights == nullptr ? 0.0f : logit_limit<kViewWarps>(pairs, slots);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kViewThreads + threadIdx.x;
  if (row >= 2 * n) return;
  const int64_t o = row < n ? 0 : 1, i = row - o * n;
  if (o == 1 && !second) {
    factors[row] = 0;
    return;
  }
  const T negatives = stats.negatives[row], above = grad.value[o * grad.stride[0] + i * grad.stride[1]] * grad.weight;
  const T factor = above * sigmoid(negatives - *stats.scale * stats.dot[i]);
  factors[row] = factor;
  if constexpr (std::is_same_v<T, float>)
    if (weights != nullptr) (o == 0 ? weights : second_weights)[i] = row_weight(limit, negatives, factor);
}

template <typename Z>
struct ViewGradient {
  const Real<Z>* product[2];  // [n, width] c W u
  const Real<Z>* factors;     // [2n]
  Z* grad[2];                 // [n, d]; the second may be null, with its product
  Real<Z>* scale_parts;       // [n], or null
};

template <typename Z, int kWidth>
__global__ void __launch_bounds__(kViewThreads)
    views_gradient_kernel(const __grid_constant__ ViewRows<Z> p, const __grid_constant__ ViewGradient<Z> g) {
  using T = Real<Z>;
  using P = Pack<Z, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kViewWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  const int lane = threadIdx.x % 32;
  const T norm[2] = {p.stats.norm[i], p.stats.norm[p.n + i]};
  const T factor[2] = {p.unit ? unit_factor(norm[0]) : T(1), p.unit ? unit_factor(norm[1]) : T(1)};
  const T scale = *p.stats.scale, dot = p.stats.dot[i], of_pair = g.factors[i] + g.factors[p.n + i];
  const auto row = [&](int o, int64_t c, T(&x)[kWidth], T(&product)[kWidth]) {
    const P z = *reinterpret_cast<const P*>(p.z[o] + i * p.ld[o] + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      x[k] = widened(z.v[k]) * factor[o];
      product[k] = g.product[o] == nullptr ? T(0) : g.product[o][i * p.width + c + k];
    }
  };
  T along[2] = {0, 0};
#pragma unroll
  for (int o = 0; o < 2; ++o) {
    for (int64_t c = lane * kWidth; c < p.d; c += 32 * kWidth) {
      T x[kWidth], product[kWidth];
      row(o, c, x, product);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) along[o] += x[k] * product[k];
    }
    along[o] = warp_sum(along[o]);
  }
  if (g.scale_parts != nullptr && lane == 0)  // both operands have the same sum over rows, stacked they have all of it
    g.scale_parts[i] = (p.stacked ? (along[0] + along[1]) / 2 : along[0]) / scale - of_pair * dot;
  for (int64_t c = lane * kWidth; c < p.d; c += 32 * kWidth) {
    T x[2][kWidth], product[2][kWidth];
#pragma unroll
    for (int o = 0; o < 2; ++o) row(o, c, x[o], product[o]);
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      if (g.grad[o] == nullptr) break;
      // a row shorter than the smallest norm is a multiple of z: nothing to project off
      const T off = !p.unit || norm[o] < static_cast<T>(1e-12) ? T(0) : along[o] - scale * of_pair * dot;
      P out;
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        out.v[k] = narrowed<Z>(factor[o] * (product[o][k] - scale * of_pair * x[1 - o][k] - off * x[o][k]));
      *reinterpret_cast<P*>(g.grad[o] + i * p.d + c) = out;
    }
  }
}

}  // namespace sslspec::cuda

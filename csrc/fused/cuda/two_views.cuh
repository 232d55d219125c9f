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

// Row i of both operands, by a warp: norms, the multiplied rows and their product.
template <typename Z, int kWidth>
__device__ __forceinline__ void unit_pair(const ViewRows<Z>& p, int64_t i, Real<Z> (&norm)[2]) {
  using T = Real<Z>;
  using P = Pack<Z, kWidth>;
  using U = Pack<Multiplied<Z>, kWidth>;
  const int lane = threadIdx.x % 32;
  T factor[2] = {1, 1};
#pragma unroll
  for (int o = 0; o < 2; ++o) {
    T square = 0;
    for (int64_t c = lane * kWidth; c < p.d; c += 32 * kWidth) {
      const P z = *reinterpret_cast<const P*>(p.z[o] + i * p.ld[o] + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) square += widened(z.v[k]) * widened(z.v[k]);
    }
    norm[o] = sqrt(warp_sum(square));
    if (!p.unit) continue;
    factor[o] = unit_factor(norm[o]);
    if (lane == 0) p.stats.norm[o * p.n + i] = norm[o];
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
  if (lane == 0) p.stats.dot[i] = dot;
}

// A warp per pair of rows. Of rows as they are, a block takes those of a bound, whose longest it finds.
constexpr int kBoundThreads = 512;
template <typename Z, int kWidth, bool kUnit>
__global__ void __launch_bounds__(kUnit ? kViewThreads : kBoundThreads)
    views_unit_kernel(const __grid_constant__ ViewRows<Z> p, const Real<Z>* scale, Real<Z> number, unsigned* counter,
                      int32_t* flushed, bool tries) {
  using T = Real<Z>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T norm[2];
  if constexpr (kUnit) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kViewWarps + warp;
    if (i < p.n) {
      unit_pair<Z, kWidth>(p, i, norm);
      for (int o = 0; o < 2 && lane == 0; ++o) mark_row(p.stats, p.n, p.stacked, o, i);
    }
  } else {
    constexpr int kWarps = kBoundThreads / 32;
    __shared__ float slots[kWarps];
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kBoundRows;
    float longest[2] = {0, 0};
    for (int64_t i = first + warp; i < first + kBoundRows && i < p.n; i += kWarps) {
      unit_pair<Z, kWidth>(p, i, norm);
      for (int o = 0; o < 2; ++o) longest[o] = max_nan(longest[o], static_cast<float>(norm[o]));
    }
    for (int o = 0; o < 2; ++o) {
      const float all = block_max<kWarps>(longest[o], slots);
      if (threadIdx.x == 0) p.stats.bounds[o * ceil_div(p.n, kBoundRows) + blockIdx.x] = {all, all, 0, 0};
    }
  }
  if (blockIdx.x != 0 || threadIdx.x != 0) return;
  *p.stats.scale = scale == nullptr ? number : *scale;
  if (counter != nullptr) *counter = 0;
  if (flushed != nullptr) *flushed = tries ? 0 : 1;
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

// Of the losses as one number, and what the backward pass needs of the statistics but for the factor from above.
template <typename T>
struct LossTotal {
  T* loss;           // null: the losses of the anchors are asked for, and there is nothing else here
  double weight;     // of a loss
  double* partials;  // one for each block of anchors
  unsigned* counter;
  T* factors;          // [2n] the gradients of the negatives
  Weight* weights[2];  // of both operands; float32
};

// weight times the sum over all blocks of x over its threads: the block that ends last adds up in the order of the
// blocks.
template <typename T>
__device__ __forceinline__ void add_up(double x, const LossTotal<T>& total) {
  __shared__ double slots[kViewWarps];
  const double own = block_sum<kViewWarps>(x, slots);
  if (threadIdx.x == 0) total.partials[blockIdx.x] = own;
  if (!ends_last(total.counter)) return;
  const volatile double* partials = total.partials;
  double all = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += kViewThreads) all += partials[b];
  all = block_sum<kViewWarps>(all, slots);
  if (threadIdx.x == 0) *total.loss = static_cast<T>(total.weight * all);
}

// Stacked: a loss for each of the 2n rows. Otherwise n: of the rows, or the mean of rows and columns.
template <typename T>
__global__ void __launch_bounds__(kViewThreads)
    views_loss_kernel(ViewStats<T> stats, int64_t n, bool stacked, bool columns, ViewParts by_row, ViewParts by_column,
                      T* out, const __grid_constant__ Pairs pairs, const __grid_constant__ LossTotal<T> total) {
  __shared__ float slots[kViewWarps];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kViewThreads + threadIdx.x, anchors = stacked ? 2 * n : n;
  const bool keeps = total.loss != nullptr;
  CommonShift shift = {0.0f};
  if (keeps && total.weights[0] != nullptr) shift = common_shift<kViewWarps>(pairs, slots);
  const T each = static_cast<T>(columns ? total.weight / 2 : total.weight);
  // the loss of the statistic `at` of anchor k; its factor and weight
  const auto loss_of = [&](int64_t at, int64_t k, ViewParts from, int64_t size, T positive) {
    if (from.parts != nullptr) stats.negatives[at] = merged_log(from.parts, from.slots, size, k);
    const T x = stats.negatives[at] - positive;
    if (keeps) {
      const T factor = each * static_cast<T>(sigmoid(x));
      total.factors[at] = factor;
      if constexpr (std::is_same_v<T, float>)
        if (total.weights[0] != nullptr)
          total.weights[at < n ? 0 : 1][at < n ? at : at - n] = row_weight(shift, stats.negatives[at], factor);
    }
    return static_cast<T>(softplus(x));
  };
  T loss = 0;
  if (i < anchors) {
    const T positive = *stats.scale * stats.dot[i < n ? i : i - n];
    loss = loss_of(i, i, by_row, anchors, positive);
    if (columns) loss = (loss + loss_of(n + i, i, by_column, n, positive)) / 2;
    if (!keeps) out[i] = loss;
    if (keeps && !stacked && !columns) total.factors[n + i] = 0;
  }
  if (keeps) add_up(static_cast<double>(loss), total);
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
  CommonShift shift = {0.0f};
  if (weights != nullptr) shift = common_shift<kViewWarps>(pairs, slots);
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
    if (weights != nullptr) (o == 0 ? weights : second_weights)[i] = row_weight(shift, negatives, factor);
}

template <typename Z>
struct ViewGradient {
  const Real<Z>* product[2];    // [n, width] c W u, or `splits` parts of it
  int64_t pitch, splits, step;  // of a row, how many parts, from one to the next
  bool unscaled;                // W u
  const Real<Z>* factors;       // [2n]
  const Real<Z>* by_row;        // [n] factors of the rows of the first product, or null
  const Real<Z>* above;         // the factor of all of it, or null: 1
  Z* grad[2];                   // [n, d]; the second may be null, with its product
  Real<Z>* scale_parts;         // [n], or null
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
  const T scale = *p.stats.scale, times_all = g.unscaled ? scale : T(1);
  const T times[2] = {g.by_row == nullptr ? times_all : times_all * g.by_row[i], times_all};
  const T dot = p.stats.dot[i], of_pair = g.factors[i] + g.factors[p.n + i];
  const auto row = [&](int o, int64_t c, T(&x)[kWidth], T(&product)[kWidth]) {
    const P z = *reinterpret_cast<const P*>(p.z[o] + i * p.ld[o] + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      x[k] = widened(z.v[k]) * factor[o];
      product[k] = T(0);
      if (g.product[o] == nullptr) continue;
      const T* part = g.product[o] + i * g.pitch + c + k;
      for (int64_t split = 0; split < g.splits; ++split) product[k] += part[split * g.step];
      product[k] *= times[o];
    }
  };
  const T above = g.above == nullptr ? T(1) : *g.above;
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
    g.scale_parts[i] = above * ((p.stacked ? (along[0] + along[1]) / 2 : along[0]) / scale - of_pair * dot);
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
        out.v[k] = narrowed<Z>(above * factor[o] * (product[o][k] - scale * of_pair * x[1 - o][k] - off * x[o][k]));
      *reinterpret_cast<P*>(g.grad[o] + i * p.d + c) = out;
    }
  }
}

}  // namespace sslspec::cuda

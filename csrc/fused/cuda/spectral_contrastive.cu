// What `spectral_contrastive` does on a GPU besides products of matrices: rows cut and rounded before, the gradient after.
//
// Tiling: a warp per row of both views, lanes over the columns in packs. Memory traffic: the rows are read in their own
// type, again from a cache where they are cut, and written once.
// Precision policy: float (double for double), lane by lane, then over the warp; sums over rows in float64, all in a
// fixed order. Factors are rounded to bfloat16 where the products are.
#include "fused/cuda/spectral_contrastive.h"

#include "gram/cuda/gram.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
static_assert(kWarps == kSpectralRows);

template <typename In>
struct Views {
  const In* z[2];
  int64_t ld[2], n, d;
  typename Computed<In>::type longest;
  typename Computed<In>::type* rows;  // [3, n]
  // x = f z
  __device__ __forceinline__ typename Computed<In>::type factor(typename Computed<In>::type norm) const {
    return norm < longest ? 1 : longest / norm;  // keeps NaN
  }
};

template <typename In, typename Out>
struct PackArgs {
  Views<In> in;
  Out* out;  // [2, rows, d]
  int64_t rows;
  double *pairs, *squares;
  unsigned* counter;
  bool subtracted;
};

template <typename In, typename Out, int kWidth>
__global__ void __launch_bounds__(kThreads) spectral_pack_kernel(const __grid_constant__ PackArgs<In, Out> p) {
  using T = typename Computed<In>::type;
  using P = Pack<T, kWidth>;
  __shared__ double dots[kWarps], squares[kWarps];
  const int warp = threadIdx.x / 32, first = threadIdx.x % 32 * kWidth;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp, n = p.in.n, d = p.in.d;
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.counter = 0;
  T dot = 0, product = 0, norm[2] = {}, factor[2] = {};
  if (i < n) {
    for (int64_t c = first; c < d; c += 32 * kWidth)
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        const P z = load_wide<kWidth>(p.in.z[o] + i * p.in.ld[o] + c);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) norm[o] += z.v[e] * z.v[e];
      }
#pragma unroll
    for (int o = 0; o < 2; ++o) norm[o] = sqrt(warp_sum(norm[o])), factor[o] = p.in.factor(norm[o]);
  }
  if (i < p.rows)
    for (int64_t c = first; c < d; c += 32 * kWidth) {
      P x[2] = {}, rounded[2] = {};
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        if (i < n) x[o] = load_wide<kWidth>(p.in.z[o] + i * p.in.ld[o] + c);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          if (i < n) x[o].v[e] *= factor[o];
          rounded[o].v[e] = static_cast<T>(widened(narrowed<Out>(x[o].v[e])));
        }
        store_narrow<Out>(p.out + (o * p.rows + i) * d + c, rounded[o]);
      }
#pragma unroll
      for (int e = 0; e < kWidth; ++e) dot += x[0].v[e] * x[1].v[e], product += rounded[0].v[e] * rounded[1].v[e];
    }
  dot = warp_sum(dot), product = p.subtracted ? warp_sum(product) : T(0);
  if (first == 0) {
    dots[warp] = dot, squares[warp] = static_cast<double>(product) * product;
    if (i < n) p.in.rows[i] = norm[0], p.in.rows[n + i] = norm[1], p.in.rows[2 * n + i] = product;
  }
  __syncthreads();
  if (threadIdx.x > 0 || static_cast<int64_t>(blockIdx.x) * kWarps >= n) return;
  double total = 0, square = 0;
  for (int w = 0; w < kWarps; ++w) total += dots[w], square += squares[w];
  p.pairs[2 * blockIdx.x] = total, p.pairs[2 * blockIdx.x + 1] = 0, p.squares[blockIdx.x] = square;
}

template <typename In>
struct FinishArgs {
  using T = typename Computed<In>::type;
  Views<In> in;
  const T* products[2];  // null: no gradient is requested
  const T* factor;
  In* out[2];
  T attraction, repulsion;  // twice the latter
  bool half;
};

template <typename In, int kWidth>
__global__ void __launch_bounds__(kThreads) spectral_finish_kernel(const __grid_constant__ FinishArgs<In> p) {
  using T = typename Computed<In>::type;
  using P = Pack<T, kWidth>;
  const int first = threadIdx.x % 32 * kWidth;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32, n = p.in.n, d = p.in.d;
  if (i >= n) return;
  T f[2], along[2] = {};  // factors of the rows, and g . x / |x|^2 where a row is cut
  bool cut[2];
#pragma unroll
  for (int o = 0; o < 2; ++o) {
    const T norm = p.in.rows[o * n + i];
    f[o] = p.in.factor(norm), cut[o] = !(norm < p.in.longest);
  }
  const T t = p.in.rows[2 * n + i], factor = *p.factor;
  const auto gradients = [&](int64_t c, P(&x)[2], P(&g)[2]) {
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      x[o] = load_wide<kWidth>(p.in.z[o] + i * p.in.ld[o] + c);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) x[o].v[e] *= f[o];
    }
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      if (p.products[o] == nullptr) continue;
      const P product = load_wide<kWidth>(p.products[o] + i * d + c);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const T y = x[1 - o].v[e];
        const T multiplied = p.half ? static_cast<T>(widened(narrowed<__nv_bfloat16>(static_cast<float>(y)))) : y;
        g[o].v[e] = p.attraction * y + p.repulsion * (product.v[e] - t * multiplied);
      }
    }
  };
  if (cut[0] || cut[1]) {
    for (int64_t c = first; c < d; c += 32 * kWidth) {
      P x[2], g[2] = {};
      gradients(c, x, g);
#pragma unroll
      for (int o = 0; o < 2; ++o)
#pragma unroll
        for (int e = 0; e < kWidth; ++e) along[o] += g[o].v[e] * x[o].v[e];
    }
#pragma unroll
    for (int o = 0; o < 2; ++o) along[o] = cut[o] ? warp_sum(along[o]) / (p.in.longest * p.in.longest) : T(0);
  }
  for (int64_t c = first; c < d; c += 32 * kWidth) {
    P x[2], g[2] = {};
    gradients(c, x, g);
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      if (p.products[o] == nullptr) continue;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) g[o].v[e] = factor * f[o] * (g[o].v[e] - along[o] * x[o].v[e]);
      store_narrow<In>(p.out[o] + i * d + c, g[o]);
    }
  }
}

constexpr const char* kOp = "spectral_contrastive";

template <typename In>
constexpr int kWidest = sizeof(In) == 8 ? 2 : 4;

void check_views(const TensorView& z1, const TensorView& z2, const TensorView& rows) {
  SSLSPEC_CHECK(z1.device != kCpu, kOp, ": z1 must be on a CUDA device");
  SSLSPEC_CHECK(z1.ndim == 2 && z1.shape[0] >= 1, kOp, ": z1 must be (n, d) with n >= 1, got ", shape_text(z1));
  check_matrix(kOp, "z1", z1, z1.shape[0], z1.shape[1], z1.dtype, z1.device);
  check_matrix(kOp, "z2", z2, z1.shape[0], z1.shape[1], z1.dtype, z1.device);
  check_block("rows", rows, {3, z1.shape[0]}, computed_type(z1.dtype), z1.device);
}

template <typename In>
Views<In> views_of(const TensorView& z1, const TensorView& z2, const TensorView& rows, double longest) {
  using T = typename Computed<In>::type;
  return {{z1.as<In>(), z2.as<In>()},
          {z1.stride[0], z2.stride[0]},
          z1.shape[0],
          z1.shape[1],
          static_cast<T>(longest),
          rows.as<T>()};
}

dim3 grid_of(int64_t rows) { return dim3(static_cast<unsigned>(ceil_div(rows, kWarps))); }

template <typename In, typename Out>
void pack(const PackArgs<In, Out>& p, bool wide, int64_t stream) {
  const auto kernel = wide ? spectral_pack_kernel<In, Out, kWidest<In>> : spectral_pack_kernel<In, Out, 1>;
  launch("spectral_pack", kernel, grid_of(p.rows), kThreads, 0, stream, p);
}

}  // namespace

void spectral_pack(TensorView z1, TensorView z2, double longest, bool subtracted, TensorView factors, TensorView rows,
                   TensorView sums, int64_t stream) {
  check_views(z1, z2, rows);
  const int64_t n = z1.shape[0], d = z1.shape[1], blocks = ceil_div(n, kSpectralRows),
                all = factors.ndim == 3 ? factors.shape[1] : 0;
  const bool half = factors.dtype == DType::bf16;
  SSLSPEC_CHECK(longest > 0, kOp, ": longest must be positive, got ", longest);
  SSLSPEC_CHECK(all >= n, kOp, ": factors must have at least ", n, " rows, got ", all);
  SSLSPEC_CHECK(!half || z1.dtype != DType::f64, kOp, ": factors of float64 must be float64");
  check_block("factors", factors, {2, all, d}, half ? DType::bf16 : computed_type(z1.dtype), z1.device);
  check_sums(sums, 0, kCounterSlots + 3 * blocks, z1.device);
  const DeviceGuard guard(z1.device);
  dispatch_rows(kOp, z1.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    const bool wide = packs(z1, kWidest<In>) && packs(z2, kWidest<In>);
    const Views<In> in = views_of<In>(z1, z2, rows, longest);
    double *pairs = sums.as<double>() + kCounterSlots, *squares = pairs + 2 * blocks;
    const auto launch_pack = [&](auto out) {
      using Out = typename decltype(out)::type;
      pack<In, Out>({in, factors.as<Out>(), all, pairs, squares, gram_counter(sums), subtracted}, wide, stream);
    };
    if constexpr (sizeof(T) == 4)
      if (half) return launch_pack(Type<__nv_bfloat16>{});
    launch_pack(Type<T>{});
  });
}

void spectral_finish(TensorView z1, TensorView z2, const SpectralWeights& weights, TensorView rows, TensorView products,
                     TensorView factor, const TensorPair& grads, int64_t stream) {
  check_views(z1, z2, rows);
  const int64_t n = z1.shape[0], d = z1.shape[1], requested = grads.first.present() + grads.second.present();
  const DType type = computed_type(z1.dtype);
  check_block("products", products, {requested, n, d}, type, z1.device);
  check_dense(kOp, "factor", factor, 0, nullptr, type, z1.device);
  for (const TensorView* grad : {&grads.first, &grads.second})
    if (grad->present()) check_block("gradient", *grad, {n, d}, z1.dtype, z1.device);
  const DeviceGuard guard(z1.device);
  dispatch_rows(kOp, z1.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    FinishArgs<In> p{views_of<In>(z1, z2, rows, weights.longest)};
    p.products[0] = grads.first.present() ? products.as<T>() : nullptr;
    p.products[1] = grads.second.present() ? products.as<T>() + (requested - 1) * n * d : nullptr;
    p.factor = factor.as<T>(), p.out[0] = grads.first.as<In>(), p.out[1] = grads.second.as<In>();
    p.attraction = static_cast<T>(weights.attraction), p.repulsion = static_cast<T>(2 * weights.repulsion);
    p.half = z1.dtype == DType::bf16;
    const bool wide = packs(z1, kWidest<In>) && packs(z2, kWidest<In>);
    const auto kernel = wide ? spectral_finish_kernel<In, kWidest<In>> : spectral_finish_kernel<In, 1>;
    launch("spectral_finish", kernel, grid_of(n), kThreads, 0, stream, p);
  });
}

}  // namespace sslspec::cuda

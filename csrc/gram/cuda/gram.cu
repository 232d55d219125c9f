// What `gram` does on a GPU besides products of matrices: standardised operands before, the whole gradient after, one
// pass over memory each for both operands (two for a projected gradient). The sums are in sums.cu.
//
// Tiling: a block owns kSlab rows and 32 kWidth columns; a lane owns kWidth neighbouring columns, whose shift, scale
// and factors it keeps in registers; a warp takes every eighth row. Sums over rows: per thread, then the warps in
// order, one partial result per slab. Memory traffic: one read of every operand, in its own type, and one write.
// Precision policy: float (double for double); factors are rounded to bfloat16 where the products are.
#include "gram/cuda/gram.h"

#include "gram/cuda/gram.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kSlab = 128;

template <typename In>
struct Rows {
  using T = typename Computed<In>::type;
  const In* data[2];  // the second may be null
  int64_t ld[2], n, d;
  const T* columns;
};

struct Place {  // of a thread
  int64_t slab, first, k;
  __device__ Place(int64_t d, int width) {
    const int64_t strips = ceil_div(d, 32 * width);
    slab = blockIdx.x / strips;
    k = blockIdx.x % strips * 32 * width + threadIdx.x % 32 * width;
    first = slab * kSlab + threadIdx.x / 32;
  }
  __device__ int64_t last(int64_t n) const { return (slab + 1) * kSlab < n ? (slab + 1) * kSlab : n; }
};

// Sums of kCount rows of values over the block's warps, in order, to out[0 .. d), out[d .. 2d), ... All threads call.
template <int kCount, typename T, int kWidth>
__device__ __forceinline__ void write_sums(const Pack<T, kWidth> (&sums)[kCount], int64_t k, int64_t d, T* out) {
  __shared__ T shared[kCount][kWarps][32 * kWidth];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int s = 0; s < kCount; ++s)
#pragma unroll
    for (int e = 0; e < kWidth; ++e) shared[s][warp][lane * kWidth + e] = sums[s].v[e];
  __syncthreads();
  if (warp >= kCount || k >= d) return;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    T total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared[warp][w][lane * kWidth + e];
    out[warp * d + k + e] = total;
  }
}

template <typename In, typename Out>
struct PackArgs {
  Rows<In> in;
  Out* out;                            // [operands, rows, d]
  int64_t rows;                        // zeros from row n on
  typename Computed<In>::type* parts;  // [slabs, lines, d] or null
  bool cross;
};

template <typename In, typename Out, int kWidth>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ PackArgs<In, Out> p) {
  using T = typename Computed<In>::type;
  using P = Pack<T, kWidth>;
  const int64_t n = p.in.n, d = p.in.d;
  const Place at(d, kWidth);
  const bool pair = p.in.data[1] != nullptr;
  P sums[2] = {};
  if (at.k < d) {
    P shift[2], scale[2];
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      shift[o] = column_of<kWidth>(p.in.columns, d, kShift + o, at.k);
      scale[o] = column_of<kWidth>(p.in.columns, d, kScale + o, at.k);
    }
#pragma unroll 2
    for (int64_t i = at.first; i < at.last(p.rows); i += kWarps) {
      P f[2] = {};
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        if (o == 1 && !pair) continue;
        if (i < n) {
          const P x = load_wide<kWidth>(p.in.data[o] + i * p.in.ld[o] + at.k);
#pragma unroll
          for (int e = 0; e < kWidth; ++e)
            f[o].v[e] = static_cast<T>(widened(narrowed<Out>((x.v[e] - shift[o].v[e]) * scale[o].v[e])));
        }
        store_narrow<Out>(p.out + (o * p.rows + i) * d + at.k, f[o]);
      }
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        sums[0].v[e] += f[0].v[e] * (p.cross ? f[1].v[e] : f[0].v[e]);
        sums[1].v[e] += f[1].v[e] * f[1].v[e];
      }
    }
  }
  if (p.parts == nullptr) return;
  if (pair && !p.cross) return write_sums(sums, at.k, d, p.parts + at.slab * 2 * d);
  const P one[1] = {sums[0]};
  write_sums(one, at.k, d, p.parts + at.slab * d);
}

template <typename In>
struct FinishArgs {
  using T = typename Computed<In>::type;
  Rows<In> in;
  const T* products[2];  // null: no gradient is requested
  const T *means, *factor;
  T* parts;  // [slabs, 4, d]
  In* out[2];
  T alpha, near;
  bool cross, half;
};

enum Pass { kWhole, kSums, kProjected };  // of the gradient; sums and means where the operands are scaled

template <typename In, int kWidth, Pass kPass>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FinishArgs<In> p) {
  using T = typename Computed<In>::type;
  using P = Pack<T, kWidth>;
  const int64_t n = p.in.n, d = p.in.d;
  const Place at(d, kWidth);
  const bool pair = p.in.data[1] != nullptr;
  P sums[4] = {};
  if (at.k < d) {
    constexpr bool kScaled = kPass != kWhole;
    P shift[2], scale[2], own[2], other[2], diagonal[2], mean[2], slope[2];
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      shift[o] = column_of<kWidth>(p.in.columns, d, kShift + o, at.k);
      diagonal[o] = column_of<kWidth>(p.in.columns, d, kDiagonal + o, at.k);
      if constexpr (kScaled) {
        scale[o] = column_of<kWidth>(p.in.columns, d, kScale + o, at.k);
        other[o] = column_of<kWidth>(p.in.columns, d, kOtherFactor + o, at.k);
      } else {
        own[o] = column_of<kWidth>(p.in.columns, d, kOwnFactor + o, at.k);
      }
      if constexpr (kPass == kProjected) {
        mean[o] = column_of<kWidth>(p.means, d, 2 * o, at.k);
        slope[o] = column_of<kWidth>(p.means, d, 2 * o + 1, at.k);
      }
    }
    const T factor = kPass == kSums ? T(1) : *p.factor;
#pragma unroll 2
    for (int64_t i = at.first; i < at.last(n); i += kWarps) {
      P x[2] = {}, s[2] = {};
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        if (o == 1 && !pair) continue;
        x[o] = load_wide<kWidth>(p.in.data[o] + i * p.in.ld[o] + at.k);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          s[o].v[e] = x[o].v[e] - shift[o].v[e];
          if constexpr (kScaled) s[o].v[e] *= scale[o].v[e];
        }
      }
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        if (p.products[o] == nullptr) continue;
        const P product = load_wide<kWidth>(p.products[o] + i * d + at.k);
        P g;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          T partner = p.cross ? s[1 - o].v[e] : s[o].v[e];
          if (p.half) partner = widened(narrowed<__nv_bfloat16>(static_cast<float>(partner)));
          g.v[e] = p.alpha * (product.v[e] - diagonal[o].v[e] * partner);
          if constexpr (kScaled)
            g.v[e] += other[o].v[e] * s[1 - o].v[e];
          else
            g.v[e] += own[o].v[e] * s[o].v[e] + (p.near == T(0) ? T(0) : p.near * (x[o].v[e] - x[1 - o].v[e]));
          if constexpr (kPass == kSums) sums[2 * o].v[e] += g.v[e], sums[2 * o + 1].v[e] += g.v[e] * s[o].v[e];
          if constexpr (kPass == kProjected)
            g.v[e] = (g.v[e] - mean[o].v[e] - s[o].v[e] * slope[o].v[e]) * scale[o].v[e];
          g.v[e] *= factor;
        }
        if constexpr (kPass != kSums) store_narrow<In>(p.out[o] + i * d + at.k, g);
      }
    }
  }
  if constexpr (kPass == kSums) write_sums(sums, at.k, d, p.parts + at.slab * 4 * d);
}

constexpr const char* kOp = "gram";

dim3 grid_of(int64_t rows, int64_t d, int width) {
  return dim3(static_cast<unsigned>(ceil_div(rows, kSlab) * ceil_div(d, 32 * width)));
}

template <typename In>
constexpr int kWidest = sizeof(In) == 8 ? 2 : 4;

template <typename In>
Rows<In> rows_of(const TensorView& x, const TensorView& y, const TensorView& columns) {
  return {{x.as<In>(), y.as<In>()},
          {x.stride[0], y.stride[0]},
          x.shape[0],
          x.shape[1],
          columns.as<typename Computed<In>::type>()};
}

template <typename In, typename Out>
void pack(const PackArgs<In, Out>& p, bool wide, int64_t stream) {
  constexpr int kWide = kWidest<In>;
  const auto kernel = wide ? pack_kernel<In, Out, kWide> : pack_kernel<In, Out, 1>;
  launch("gram_pack", kernel, grid_of(p.rows, p.in.d, wide ? kWide : 1), kThreads, 0, stream, p);
}

template <Pass kPass, typename In>
void finish(const FinishArgs<In>& p, bool wide, int64_t stream) {
  constexpr int kWide = kWidest<In>;
  const auto kernel = wide ? finish_kernel<In, kWide, kPass> : finish_kernel<In, 1, kPass>;
  launch("gram_finish", kernel, grid_of(p.in.n, p.in.d, wide ? kWide : 1), kThreads, 0, stream, p);
}

}  // namespace

int64_t gram_slabs(int64_t rows) { return ceil_div(rows, kSlab); }

void gram_prepare(TensorView x, TensorView y, const GramForm& form, bool summed, TensorView columns, TensorView factors,
                  TensorView sums, const Run& run) {
  const TensorView& workspace = run.workspace;
  check_gram_rows(x, y, columns, workspace);
  const int64_t n = x.shape[0], d = x.shape[1], operands = y.present() ? 2 : 1,
                rows = factors.ndim == 3 ? factors.shape[1] : 0;
  SSLSPEC_CHECK(workspace.present(), kOp, ": a workspace is needed");
  SSLSPEC_CHECK(!form.cross || y.present(), kOp, ": the cross form needs y");
  SSLSPEC_CHECK(rows >= n && gram_slabs(rows) <= gram_slabs(n) + 16, kOp, ": factors must have a few rows more than ",
                n, " at most");
  SSLSPEC_CHECK(!form.half || x.dtype != DType::f64, kOp, ": factors of float64 must be float64");
  check_block("factors", factors, {operands, rows, d}, form.half ? DType::bf16 : computed_type(x.dtype), x.device);
  const DeviceGuard guard(x.device);
  gram_columns(x, y, form, columns, sums, run);
  dispatch_rows(kOp, x.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    const bool wide = packs(x, kWidest<In>) && packs(y, kWidest<In>);
    T* parts = summed ? workspace.as<T>() : nullptr;
    const Rows<In> in = rows_of<In>(x, y, columns);
    if constexpr (sizeof(T) == 4)
      if (form.half)
        return pack<In, __nv_bfloat16>({in, factors.as<__nv_bfloat16>(), rows, parts, form.cross}, wide, run.stream);
    pack<In, T>({in, factors.as<T>(), rows, parts, form.cross}, wide, run.stream);
  });
  if (summed) gram_diagonal(workspace, gram_slabs(rows), form.cross ? 1 : operands, columns, sums, run.stream);
}

void gram_finish(TensorView x, TensorView y, const GramForm& form, TensorView columns, TensorView products,
                 TensorView factor, const TensorPair& grads, const Run& run) {
  check_gram_rows(x, y, columns, run.workspace);
  const auto& [grad_x, grad_y] = grads;
  const int64_t n = x.shape[0], d = x.shape[1], requested = grad_x.present() + grad_y.present();
  const DType type = computed_type(x.dtype);
  const bool scaled = form.kind == kGramBarlow;
  SSLSPEC_CHECK(y.present() || (!form.cross && form.near == 0 && !scaled && !grad_y.present()), kOp,
                ": the cross form, near and scaled operands need y");
  SSLSPEC_CHECK(run.workspace.present() || !scaled, kOp, ": the gradient of scaled operands needs a workspace");
  check_block("products", products, {requested, n, d}, type, x.device);
  check_dense(kOp, "factor", factor, 0, nullptr, type, x.device);
  if (grad_x.present()) check_block("grad_x", grad_x, {n, d}, x.dtype, x.device);
  if (grad_y.present()) check_block("grad_y", grad_y, {n, d}, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  dispatch_rows(kOp, x.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    const bool wide = packs(x, kWidest<In>) && packs(y, kWidest<In>);
    FinishArgs<In> p{rows_of<In>(x, y, columns)};
    p.products[0] = grads.first.present() ? products.as<T>() : nullptr;
    p.products[1] = grads.second.present() ? products.as<T>() + (requested - 1) * n * d : nullptr;
    p.factor = factor.as<T>(), p.out[0] = grads.first.as<In>(), p.out[1] = grads.second.as<In>();
    p.alpha = static_cast<T>(form.alpha), p.near = static_cast<T>(form.near), p.cross = form.cross, p.half = form.half;
    if (!scaled) return finish<kWhole>(p, wide, run.stream);
    const int64_t slabs = gram_slabs(n);
    p.parts = run.workspace.as<T>(), p.means = p.parts + slabs * 4 * d;
    finish<kSums>(p, wide, run.stream);
    gram_means(run.workspace, slabs, n, d, run.stream);
    finish<kProjected>(p, wide, run.stream);
  });
}

}  // namespace sslspec::cuda

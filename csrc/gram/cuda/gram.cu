// What `gram` does on a GPU besides products of matrices: standardised operands before, the whole gradient after, one
// pass over memory each for both operands (two for a projected gradient). The squares and the loss are in sums.cu.
//
// Tiling: a block owns a slab of rows and 32 kWidth columns; a lane owns kWidth neighbouring columns, whose shift, scale
// and factors it keeps in registers; a warp takes every eighth row. Sums over rows: per thread, then the warps in
// order, one partial result per slab; each block of the next kernel merges those of its columns, so that no launch
// stands between. Memory traffic: one read of every operand, in its own type, and one write.
// Precision policy: float (double for double); factors are rounded to bfloat16 where the products are.
#include "gram/cuda/gram.h"

#include <algorithm>

#include "gram/cuda/columns.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <typename In>
struct Rows {
  using T = typename Computed<In>::type;
  const In* data[2];  // the second may be null
  int64_t ld[2], n, d;
  const T* columns;
};

struct Place {  // of a thread
  int64_t slab, first, last, strip, k;
  __device__ Place(const Slabs& slabs, int64_t d, int width) {
    const int64_t strips = ceil_div(d, 32 * width);
    slab = blockIdx.x / strips;
    strip = blockIdx.x % strips * 32 * width;  // its first column
    k = strip + threadIdx.x % 32 * width;
    first = slabs.begin(slab) + threadIdx.x / 32, last = slabs.end(slab);
  }
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

// The thread's columns of a vector of the block in shared memory.
template <int kWidth, typename T>
__device__ __forceinline__ Pack<T, kWidth> pack_at(const T* vector) {
  Pack<T, kWidth> v;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) v.v[e] = vector[threadIdx.x % 32 * kWidth + e];
  return v;
}

template <typename In, typename Out>
struct PackArgs {
  Rows<In> in;
  ColumnArgs<In> columns;
  Out* out;                            // [operands, rows, d], zeros from row n on
  Slabs slabs;                         // of those rows
  typename Computed<In>::type* parts;  // [slabs, lines, d] or null
  bool cross;
  unsigned* counter;
};

template <typename In, typename Out, int kWidth>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ PackArgs<In, Out> p) {
  using T = typename Computed<In>::type;
  using P = Pack<T, kWidth>;
  __shared__ ColumnVectors<T, 32 * kWidth> vectors;
  const int64_t n = p.in.n, d = p.in.d;
  const Place at(p.slabs, d, kWidth);
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.counter = 0;
  describe_columns<32 * kWidth, kThreads>(p.columns, at.strip, at.slab == 0, vectors);
  const bool pair = p.in.data[1] != nullptr;
  P sums[2] = {};
  if (at.k < d) {
    P shift[2], scale[2];
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      shift[o] = pack_at<kWidth>(vectors.shift[o]);
      scale[o] = pack_at<kWidth>(vectors.scale[o]);
    }
#pragma unroll 2
    for (int64_t i = at.first; i < at.last; i += kWarps) {
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
        store_narrow<Out>(p.out + (o * p.slabs.n + i) * d + at.k, f[o]);
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
  Slabs slabs;
  const T* products[2];  // null: no gradient is requested
  const T* factor;
  T* parts;  // [slabs, 4, d]
  In* out[2];
  T alpha, near;
  bool cross, half;
};

// Over the slabs of `parts`, divided by n: the means of the block's columns, in shared memory. All threads call.
template <int kColumns, typename T>
__device__ __forceinline__ void merge_means(const T* parts, const Slabs& slabs, int64_t d, int64_t first,
                                            T (&means)[4][kColumns]) {
  for (int at = threadIdx.x; at < 4 * kColumns; at += kThreads) {
    const int line = at / kColumns, c = at % kColumns;
    double total = 0;
    if (first + c < d)
#pragma unroll 4
      for (int64_t s = 0; s < slabs.count(); ++s) total += parts[(s * 4 + line) * d + first + c];
    means[line][c] = static_cast<T>(total / static_cast<double>(slabs.n));
  }
  __syncthreads();
}

enum Pass { kWhole, kSums, kProjected };  // of the gradient; sums and means where the operands are scaled

template <typename In, int kWidth, Pass kPass>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FinishArgs<In> p) {
  using T = typename Computed<In>::type;
  using P = Pack<T, kWidth>;
  const int64_t n = p.in.n, d = p.in.d;
  const Place at(p.slabs, d, kWidth);
  const bool pair = p.in.data[1] != nullptr;
  __shared__ T means[4][32 * kWidth];
  if constexpr (kPass == kProjected) merge_means(p.parts, p.slabs, d, at.strip, means);
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
        mean[o] = pack_at<kWidth>(means[2 * o]);
        slope[o] = pack_at<kWidth>(means[2 * o + 1]);
      }
    }
    const T factor = kPass == kSums ? T(1) : *p.factor;
#pragma unroll 2
    for (int64_t i = at.first; i < at.last; i += kWarps) {
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
          if constexpr (kScaled) {
            g.v[e] = p.alpha * (product.v[e] - diagonal[o].v[e] * partner);
            g.v[e] += other[o].v[e] * s[1 - o].v[e];
          } else {
            g.v[e] = entry_gradient(product.v[e], partner, x[o].v[e], x[1 - o].v[e],
                                    EntryTerms<T>{shift[o].v[e], diagonal[o].v[e], own[o].v[e]}, p.alpha, p.near);
          }
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

dim3 grid_of(const Slabs& slabs, int64_t d, int width) {
  return dim3(static_cast<unsigned>(slabs.count() * ceil_div(d, 32 * width)));
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
  launch("gram_pack", kernel, grid_of(p.slabs, p.in.d, wide ? kWide : 1), kThreads, 0, stream, p);
}

template <Pass kPass, typename In>
void finish(const FinishArgs<In>& p, bool wide, int64_t stream) {
  constexpr int kWide = kWidest<In>;
  const auto kernel = wide ? finish_kernel<In, kWide, kPass> : finish_kernel<In, 1, kPass>;
  launch("gram_finish", kernel, grid_of(p.slabs, p.in.d, wide ? kWide : 1), kThreads, 0, stream, p);
}

}  // namespace

int64_t gram_workspace_size(int64_t n, int64_t d) {
  // partial results of the diagonals and of the moments; or of the four sums of the projection
  const int64_t lines = gram_slabs(n, d).count() * d;
  return std::max(2 * lines + moments_workspace_size(n, d, 2), 4 * lines);
}

void gram_prepare(TensorView x, TensorView y, const GramForm& form, bool summed, TensorView columns, TensorView factors,
                  TensorView sums, const Run& run) {
  const TensorView& workspace = run.workspace;
  check_gram_rows(x, y, columns, workspace);
  const int64_t n = x.shape[0], d = x.shape[1], operands = y.present() ? 2 : 1,
                rows = factors.ndim == 3 ? factors.shape[1] : 0;
  const int kind = form.kind;
  SSLSPEC_CHECK(workspace.present(), kOp, ": a workspace is needed");
  SSLSPEC_CHECK(kind >= kGramPlain && kind <= kGramBarlow, kOp, ": unknown kind ", kind);
  SSLSPEC_CHECK(y.present() || kind <= kGramCentred, kOp, ": this kind needs y");
  SSLSPEC_CHECK(!form.cross || y.present(), kOp, ": the cross form needs y");
  SSLSPEC_CHECK(rows >= n && (!summed || rows == n), kOp, ": factors must have ", n, " rows", summed ? "" : " or more",
                ", got ", rows);
  SSLSPEC_CHECK(!form.half || x.dtype != DType::f64, kOp, ": factors of float64 must be float64");
  check_block("factors", factors, {operands, rows, d}, form.half ? DType::bf16 : computed_type(x.dtype), x.device);
  check_sums(sums, 0, kCounterSlots + 2 * ceil_div(d, kGramBlock), x.device);
  const DeviceGuard guard(x.device);
  dispatch_rows(kOp, x.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    const bool wide = packs(x, kWidest<In>) && packs(y, kWidest<In>), product = kind == kGramBarlow;
    T *parts = workspace.as<T>(), *moments = nullptr;
    if (kind != kGramPlain) {
      moments = parts + gram_slabs(n, d).count() * 2 * d;
      moments_of_slabs(x, y, product, moments, run.stream);
    }
    const ColumnArgs<In> of_columns = {{x.as<In>(), y.as<In>(), moments, moment_slabs(n, d), d, product},
                                       columns.as<T>(),
                                       sums.as<double>() + kCounterSlots,
                                       kind,
                                       summed,
                                       static_cast<T>(form.eps),
                                       static_cast<T>(form.strength)};
    const auto launch_pack = [&](auto out) {
      using Out = typename decltype(out)::type;
      pack<In, Out>({rows_of<In>(x, y, columns), of_columns, factors.as<Out>(), gram_slabs(rows, d),
                     summed ? parts : nullptr, form.cross, gram_counter(sums)},
                    wide, run.stream);
    };
    if constexpr (sizeof(T) == 4)
      if (form.half) return launch_pack(Type<__nv_bfloat16>{});
    launch_pack(Type<T>{});
  });
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
  if (form.kept != kKeptProducts) {
    SSLSPEC_CHECK(requested == 2 && !scaled && !form.cross && x.dtype == DType::bf16 && form.half, kOp,
                  ": factors are kept for both gradients of bfloat16 operands that are not scaled or crossed");
    return gram_gradients_of_factors({x, y}, form, columns, products, factor.as<float>(), grads, run.stream);
  }
  dispatch_rows(kOp, x.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    const bool wide = packs(x, kWidest<In>) && packs(y, kWidest<In>);
    FinishArgs<In> p{rows_of<In>(x, y, columns), gram_slabs(n, d)};
    p.products[0] = grads.first.present() ? products.as<T>() : nullptr;
    p.products[1] = grads.second.present() ? products.as<T>() + (requested - 1) * n * d : nullptr;
    p.factor = factor.as<T>(), p.out[0] = grads.first.as<In>(), p.out[1] = grads.second.as<In>();
    p.alpha = static_cast<T>(form.alpha), p.near = static_cast<T>(form.near), p.cross = form.cross, p.half = form.half;
    if (!scaled) return finish<kWhole>(p, wide, run.stream);
    p.parts = run.workspace.as<T>();
    finish<kSums>(p, wide, run.stream);
    finish<kProjected>(p, wide, run.stream);
  });
}

}  // namespace sslspec::cuda

// What `gram` does on a GPU besides products of matrices: standardised operands before, the whole gradient after, one
// pass over memory each.
//
// Tiling: a block owns kSlab rows and 32 kWidth columns; a lane owns kWidth neighbouring columns, whose shift, scale and
// factors it keeps in registers; a warp takes every eighth row. Sums over rows: per thread, then the warps in order, one
// partial result per slab. Memory traffic: one read of every operand and one write, 16-byte accesses where rows allow.
// Precision policy: the type of x; factors are rounded to bfloat16 where the products are.
#include <cuda_bf16.h>

#include "cuda/gram.h"
#include "cuda/sparse.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kSlab = 128;

template <typename T, int kWidth_, bool kIsHalf>
struct GramTraits {
  using Value = T;
  static constexpr int kWidth = kWidth_, kColumns = 32 * kWidth;
  static constexpr bool kHalf = kIsHalf;  // factors in bfloat16
};

template <typename T>
struct Operand {  // row-major, standardised by column
  const T *data, *shift, *scale;  // shift and scale may be null
  int64_t ld;
};

struct Place {  // of a thread
  int64_t first, last, k;
  __device__ Place(int64_t n, int64_t d, int width) {
    const int64_t strips = ceil_div(d, 32 * width), slab = blockIdx.x / strips;
    k = blockIdx.x % strips * 32 * width + threadIdx.x % 32 * width;
    first = slab * kSlab + threadIdx.x / 32;
    last = (slab + 1) * kSlab < n ? (slab + 1) * kSlab : n;
  }
};

template <typename T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> vector_at(const T* p, int64_t k, T otherwise) {
  Pack<T, kWidth> v;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) v.v[e] = p == nullptr ? otherwise : p[k + e];
  return v;
}

template <typename T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> load(const T* p) { return *reinterpret_cast<const Pack<T, kWidth>*>(p); }

template <bool kHalf, typename T>
__device__ __forceinline__ T rounded(T x) {
  if constexpr (kHalf) return __bfloat162float(__float2bfloat16(static_cast<float>(x)));
  return x;
}

// Sums of two rows of values over the block's warps, in order, to out[0 .. d) and out[step .. step + d). All threads call.
template <typename T, int kWidth>
__device__ __forceinline__ void write_sums(const Pack<T, kWidth>& a, const Pack<T, kWidth>& b, T (*shared)[kWarps][32 * kWidth],
                                           int64_t k, int64_t d, T* out, int64_t step, int count) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) shared[0][warp][lane * kWidth + e] = a.v[e], shared[1][warp][lane * kWidth + e] = b.v[e];
  __syncthreads();
  if (warp >= count || k >= d) return;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    T total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared[warp][w][lane * kWidth + e];
    out[warp * step + k + e] = total;
  }
}

template <typename T>
struct PackArgs {
  Operand<T> in[2];
  void* out[2];
  T* parts;
  int64_t n, d;
  int operands;
  bool cross;
};

template <typename Traits>
__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ PackArgs<typename Traits::Value> p) {
  using T = typename Traits::Value;
  constexpr int kWidth = Traits::kWidth;
  __shared__ T shared[2][kWarps][Traits::kColumns];
  const Place at(p.n, p.d, kWidth);
  Pack<T, kWidth> sums[2] = {};
  if (at.k < p.d) {
    Pack<T, kWidth> shift[2], scale[2];
    for (int o = 0; o < 2; ++o) {
      shift[o] = vector_at<T, kWidth>(p.in[o].shift, at.k, T(0)), scale[o] = vector_at<T, kWidth>(p.in[o].scale, at.k, T(1));
    }
    for (int64_t i = at.first; i < at.last; i += kWarps) {
      Pack<T, kWidth> f[2] = {};
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        if (o >= p.operands) continue;
        const Pack<T, kWidth> x = load<T, kWidth>(p.in[o].data + i * p.in[o].ld + at.k);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) f[o].v[e] = rounded<Traits::kHalf>((x.v[e] - shift[o].v[e]) * scale[o].v[e]);
        if constexpr (Traits::kHalf) {
          Pack<__nv_bfloat16, kWidth> half;
#pragma unroll
          for (int e = 0; e < kWidth; ++e) half.v[e] = __float2bfloat16(static_cast<float>(f[o].v[e]));
          *reinterpret_cast<Pack<__nv_bfloat16, kWidth>*>(static_cast<__nv_bfloat16*>(p.out[o]) + i * p.d + at.k) = half;
        } else {
          *reinterpret_cast<Pack<T, kWidth>*>(static_cast<T*>(p.out[o]) + i * p.d + at.k) = f[o];
        }
      }
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        sums[0].v[e] += f[0].v[e] * (p.cross ? f[1].v[e] : f[0].v[e]);
        sums[1].v[e] += f[1].v[e] * f[1].v[e];
      }
    }
  }
  if (p.parts == nullptr) return;
  const int count = p.cross ? 1 : p.operands;
  const int64_t slab = at.first / kSlab;
  write_sums<T, kWidth>(sums[0], sums[1], shared, at.k, p.d, p.parts + slab * count * p.d, p.d, count);
}

template <typename T>
struct FinishArgs {
  Operand<T> x, y;  // this operand and the other one, which may be absent
  const T *made, *diagonal, *own, *other, *means;
  T *parts, *out;
  int64_t n, d;
  T alpha, near;
  bool cross;
};

template <typename Traits>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FinishArgs<typename Traits::Value> p) {
  using T = typename Traits::Value;
  constexpr int kWidth = Traits::kWidth;
  using P = Pack<T, kWidth>;
  __shared__ T shared[2][kWarps][Traits::kColumns];
  const Place at(p.n, p.d, kWidth);
  const bool pair = p.y.data != nullptr;
  P sum{}, along{};
  if (at.k < p.d) {
    const P x_shift = vector_at<T, kWidth>(p.x.shift, at.k, T(0)), x_scale = vector_at<T, kWidth>(p.x.scale, at.k, T(1));
    const P y_shift = vector_at<T, kWidth>(p.y.shift, at.k, T(0)), y_scale = vector_at<T, kWidth>(p.y.scale, at.k, T(1));
    const P diagonal = vector_at<T, kWidth>(p.diagonal, at.k, T(0)), own = vector_at<T, kWidth>(p.own, at.k, T(0));
    const P other = vector_at<T, kWidth>(p.other, at.k, T(0));
    const P mean = vector_at<T, kWidth>(p.means, at.k, T(0));
    const P slope = vector_at<T, kWidth>(p.means == nullptr ? nullptr : p.means + p.d, at.k, T(0));
    for (int64_t i = at.first; i < at.last; i += kWarps) {
      const P x = load<T, kWidth>(p.x.data + i * p.x.ld + at.k), made = load<T, kWidth>(p.made + i * p.d + at.k);
      P y{}, out;
      if (pair) y = load<T, kWidth>(p.y.data + i * p.y.ld + at.k);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const T xs = (x.v[e] - x_shift.v[e]) * x_scale.v[e], ys = (y.v[e] - y_shift.v[e]) * y_scale.v[e];
        const T partner = rounded<Traits::kHalf>(p.cross ? ys : xs);
        T g = p.alpha * (made.v[e] - diagonal.v[e] * partner) + own.v[e] * xs;
        if (p.other != nullptr) g += other.v[e] * ys;
        if (p.near != T(0)) g += p.near * (x.v[e] - y.v[e]);
        sum.v[e] += g, along.v[e] += g * xs;
        if (p.means != nullptr) g = (g - mean.v[e] - xs * slope.v[e]) * x_scale.v[e];
        out.v[e] = g;
      }
      if (p.out != nullptr) *reinterpret_cast<P*>(p.out + i * p.d + at.k) = out;
    }
  }
  if (p.parts == nullptr) return;
  write_sums<T, kWidth>(sum, along, shared, at.k, p.d, p.parts + at.first / kSlab * 2 * p.d, p.d, 2);
}

constexpr const char* kOp = "gram";

dim3 grid_of(int64_t n, int64_t d, int width) { return dim3(static_cast<unsigned>(gram_slabs(n) * ceil_div(d, 32 * width))); }

template <typename T>
Operand<T> operand_of(const TensorView& t, const TensorView& shift, const TensorView& scale, int64_t which) {
  if (!t.present()) return {};
  return {t.as<T>(), shift.present() ? shift.as<T>() + which * shift.stride[0] : nullptr,
          scale.present() ? scale.as<T>() + which * scale.stride[0] : nullptr, t.stride[0]};
}

template <typename T, bool kHalf>
void pack(const TensorView& x, const TensorView& y, const TensorView& shift, const TensorView& scale, bool cross,
          const TensorView& x_out, const TensorView& y_out, const TensorView& parts, int64_t stream) {
  const PackArgs<T> p = {{operand_of<T>(x, shift, scale, 0), operand_of<T>(y, shift, scale, 1)},
                         {x_out.data, y_out.data}, parts.as<T>(), x.shape[0], x.shape[1], y.present() ? 2 : 1, cross};
  constexpr int kWide = 16 / sizeof(T);
  if (packs(x, kWide) && packs(y, kWide))
    launch("gram_pack", pack_kernel<GramTraits<T, kWide, kHalf>>, grid_of(p.n, p.d, kWide), kThreads, 0, stream, p);
  else
    launch("gram_pack", pack_kernel<GramTraits<T, 1, kHalf>>, grid_of(p.n, p.d, 1), kThreads, 0, stream, p);
}

template <typename T, bool kHalf>
void finish(const FinishArgs<T>& p, bool wide, int64_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  if (wide)
    launch("gram_finish", finish_kernel<GramTraits<T, kWide, kHalf>>, grid_of(p.n, p.d, kWide), kThreads, 0, stream, p);
  else
    launch("gram_finish", finish_kernel<GramTraits<T, 1, kHalf>>, grid_of(p.n, p.d, 1), kThreads, 0, stream, p);
}

void check_operands(const TensorView& x, const TensorView& y, const TensorView& shift, const TensorView& scale) {
  SSLSPEC_CHECK(x.device != kCpu, kOp, ": x must be on a CUDA device");
  SSLSPEC_CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, kOp, ": x must be float32 or float64, got ", x.dtype);
  SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be a matrix, got ", shape_text(x));
  const int64_t operands = y.present() ? 2 : 1;
  check_matrix(kOp, "x", x, x.shape[0], x.shape[1], x.dtype, x.device);
  if (y.present()) check_matrix(kOp, "y", y, x.shape[0], x.shape[1], x.dtype, x.device);
  if (shift.present()) check_matrix(kOp, "shift", shift, operands, x.shape[1], x.dtype, x.device);
  if (scale.present()) check_matrix(kOp, "scale", scale, operands, x.shape[1], x.dtype, x.device);
}

void check_contiguous(const char* name, const TensorView& t, int64_t n, int64_t d, DType dtype, int device) {
  check_matrix(kOp, name, t, n, d, dtype, device);
  SSLSPEC_CHECK(n <= 1 || t.stride[0] == d, kOp, ": ", name, " must be contiguous");
}

}  // namespace

int64_t gram_slabs(int64_t n) { return ceil_div(n, kSlab); }

void gram_pack(TensorView x, TensorView y, TensorView shift, TensorView scale, bool cross, TensorView x_out, TensorView y_out,
               TensorView parts, int64_t stream) {
  check_operands(x, y, shift, scale);
  const int64_t n = x.shape[0], d = x.shape[1];
  const bool half = x_out.dtype == DType::bf16 && x.dtype == DType::f32;
  const DType type = half ? DType::bf16 : x.dtype;
  SSLSPEC_CHECK(!cross || y.present(), kOp, ": the cross form needs y");
  check_contiguous("x_out", x_out, n, d, type, x.device);
  if (y.present()) check_contiguous("y_out", y_out, n, d, type, x.device);
  if (parts.present()) check_vector(kOp, "parts", parts, gram_slabs(n) * (cross || !y.present() ? 1 : 2) * d, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  const auto run = x.dtype == DType::f64 ? pack<double, false> : half ? pack<float, true> : pack<float, false>;
  run(x, y, shift, scale, cross, x_out, y_out, parts, stream);
}

template <typename T>
static void finish_of(const TensorView& x, const TensorView& y, int64_t which, const TensorView& shift, const TensorView& scale,
                      const TensorView& made, const TensorView& diagonal, const TensorView& own, const TensorView& other,
                      double alpha, double near, bool cross, bool half, const TensorView& means, const TensorView& parts,
                      const TensorView& out, int64_t stream) {
  const TensorView &mine = which == 0 ? x : y, &theirs = which == 0 ? y : x;
  FinishArgs<T> p{};
  p.x = operand_of<T>(mine, shift, scale, which);
  if (y.present()) p.y = operand_of<T>(theirs, shift, scale, 1 - which);
  p.made = made.as<T>(), p.diagonal = diagonal.as<T>(), p.means = means.as<T>();
  p.own = own.present() ? own.as<T>() + which * own.stride[0] : nullptr;
  p.other = other.present() ? other.as<T>() + which * other.stride[0] : nullptr;
  p.parts = parts.as<T>(), p.out = out.as<T>();
  p.n = x.shape[0], p.d = x.shape[1], p.alpha = static_cast<T>(alpha), p.near = static_cast<T>(near), p.cross = cross;
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = packs(x, kWide) && packs(y, kWide);
  if (half && sizeof(T) == 4) finish<T, sizeof(T) == 4>(p, wide, stream); else finish<T, false>(p, wide, stream);
}

void gram_finish(TensorView x, TensorView y, int64_t which, TensorView shift, TensorView scale, TensorView made, TensorView diagonal,
                 TensorView own, TensorView other, double alpha, double near, bool cross, bool half, TensorView means,
                 TensorView parts, TensorView out, int64_t stream) {
  check_operands(x, y, shift, scale);
  const int64_t n = x.shape[0], d = x.shape[1], operands = y.present() ? 2 : 1;
  const DType type = x.dtype;
  SSLSPEC_CHECK(which >= 0 && which < operands, kOp, ": which must be below ", operands, ", got ", which);
  SSLSPEC_CHECK(operands == 2 || (!cross && near == 0 && !other.present()), kOp, ": cross, other and near need y");
  SSLSPEC_CHECK(!means.present() || scale.present(), kOp, ": means need scale");
  SSLSPEC_CHECK(out.present() != parts.present(), kOp, ": either out or parts");
  check_contiguous("made", made, n, d, type, x.device);
  if (diagonal.present()) check_vector(kOp, "diagonal", diagonal, d, type, x.device);
  if (own.present()) check_matrix(kOp, "own", own, operands, d, type, x.device);
  if (other.present()) check_matrix(kOp, "other", other, operands, d, type, x.device);
  if (means.present()) check_contiguous("means", means, 2, d, type, x.device);
  if (parts.present()) check_vector(kOp, "parts", parts, gram_slabs(n) * 2 * d, type, x.device);
  if (out.present()) check_contiguous("out", out, n, d, type, x.device);
  const DeviceGuard guard(x.device);
  const auto run = type == DType::f64 ? finish_of<double> : finish_of<float>;
  run(x, y, which, shift, scale, made, diagonal, own, other, alpha, near, cross, half, means, parts, out, stream);
}

}  // namespace sslspec::cuda

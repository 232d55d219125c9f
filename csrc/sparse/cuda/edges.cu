// out_i = sum_j a_ij <x_i, y_j> or sum_j a_ij |x_i - y_j|^2 on the GPU; edge_values: <x_i, y_j> of each entry.
//
// Tiling: one warp per row, lanes over the columns; a lane adds its columns of all entries in order, the warp adds the
// lanes once at the end. Memory traffic: one row of Y per entry. Precision policy: everything in the type of X, sums
// of kRun entries added up with compensation.
#include "gpu/pack.cuh"
#include "sparse/cuda/csr.cuh"
#include "sparse/cuda/sparse.h"
#include "sparse/checks.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "edges";
constexpr int kThreads = 256, kWarps = kThreads / 32, kRun = 64;

template <typename T>
struct EdgesArgs {
  Sparse a;
  const T *x, *y;
  T* out;
  int64_t ldx, ldy, d;
  bool squared;
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) edges_kernel(const __grid_constant__ EdgesArgs<T> p) {
  using P = Pack<T, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.a.n) return;
  const int64_t begin = p.a.indptr[i], end = p.a.indptr[i + 1];
  LongSum<T> total;
  for (int64_t c = threadIdx.x % 32 * kWidth; c < p.d; c += 32 * kWidth) {
    const P mine = *reinterpret_cast<const P*>(p.x + i * p.ldx + c);
    T sum = 0;
#pragma unroll 4
    for (int64_t e = begin; e < end; ++e) {
      const P near = *reinterpret_cast<const P*>(p.y + p.a.column(e) * p.ldy + c);
      T term = 0;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const T difference = mine.v[k] - near.v[k];
        term += p.squared ? difference * difference : mine.v[k] * near.v[k];
      }
      sum += p.a.template value<T>(e) * term;
      if ((e - begin) % kRun == kRun - 1) total.add(sum), sum = 0;
    }
    total.add(sum);
  }
  const T sum = warp_sum(total.total);
  if (threadIdx.x % 32 == 0) p.out[i] = sum;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) edge_values_kernel(const __grid_constant__ EdgesArgs<T> p) {
  using P = Pack<T, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.a.n) return;
  for (int64_t e = p.a.indptr[i]; e < p.a.indptr[i + 1]; ++e) {
    const T* y = p.y + p.a.column(e) * p.ldy;
    T sum = 0;
    for (int64_t c = threadIdx.x % 32 * kWidth; c < p.d; c += 32 * kWidth) {
      const P mine = *reinterpret_cast<const P*>(p.x + i * p.ldx + c), near = *reinterpret_cast<const P*>(y + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum += mine.v[k] * near.v[k];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) p.out[e] = sum;
  }
}

template <typename T>
void launch_edges(const Sparse& a, const TensorView& x, const TensorView& y, const TensorView& out, bool squared,
                  bool each, int64_t stream) {
  const EdgesArgs<T> p = {a, x.as<T>(), y.as<T>(), out.as<T>(), x.stride[0], y.stride[0], x.shape[1], squared};
  const dim3 grid(static_cast<unsigned>(ceil_div(a.n, kWarps)));
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = packs(x, kWide) && packs(y, kWide);
  if (each)
    launch("edge_values", wide ? edge_values_kernel<T, kWide> : edge_values_kernel<T, 1>, grid, kThreads, 0, stream, p);
  else
    launch("edges", wide ? edges_kernel<T, kWide> : edges_kernel<T, 1>, grid, kThreads, 0, stream, p);
}

void run(const Sparse& a, int64_t size, const TensorView& x, const TensorView& y, const TensorView& out, bool squared,
         bool each, int64_t stream) {
  SSLSPEC_CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, kOp, ": x must be float32 or float64, got ", x.dtype);
  check_ends(kOp, a.n, x, y, x.device);
  check_vector(kOp, "out", out, size, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  const auto launcher = x.dtype == DType::f64 ? launch_edges<double> : launch_edges<float>;
  launcher(a, x, y, out, squared, each, stream);
}

}  // namespace

void edges(const CsrView& a, TensorView x, TensorView y, TensorView out, bool squared, int64_t stream) {
  run(sparse_of(kOp, a, x.device), a.n(), x, y, out, squared, false, stream);
}

void edge_values(const CsrView& a, TensorView x, TensorView y, TensorView out, int64_t stream) {
  run(sparse_of(kOp, a, x.device), a.nnz(), x, y, out, false, true, stream);
}

}  // namespace sslspec::cuda

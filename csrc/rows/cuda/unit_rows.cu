// Rows of unit or bounded length, their similarity, and the gradient; see csrc/rows/unit_rows.h.
//
// Tiling: one warp per row (of both operands), lanes over the columns in packs of 16 bytes where rows are aligned.
// Memory traffic: every row is read twice, the second time from a cache, and written once. Precision policy: everything
// in the type of the rows, lane by lane, then over the warp in a fixed order.
#include "gpu/launch.h"
#include "gpu/pack.cuh"
#include "gpu/reduce.cuh"
#include "rows/unit_rows.h"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// x = f z, as RowLength of the CPU kernels
template <typename T>
struct Length {
  T longest, from, below;
  __device__ __forceinline__ bool cut(T norm) const { return !(norm < from); }  // keeps NaN
  __device__ __forceinline__ T factor(T norm) const { return cut(norm) ? longest / norm : below; }
  __device__ __forceinline__ T along(T norm) const { return cut(norm) ? T(1) / (longest * longest) : T(0); }
};

template <typename T>
struct UnitRows {
  int64_t n, d;
  int operands;
  Length<T> length;
  const T* in[2];  // forward: z; backward: the gradient of x
  int64_t ld[2];
  T* x[2];
  T* norm[2];
  T* dot;  // forward: out; backward: its gradient, or null
  T* grad[2];
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) unit_rows_kernel(const __grid_constant__ UnitRows<T> p) {
  using P = Pack<T, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  const int64_t first = threadIdx.x % 32 * kWidth;
  T factor[2] = {};
#pragma unroll
  for (int o = 0; o < 2; ++o) {
    if (o >= p.operands) break;
    T square = 0;
    for (int64_t c = first; c < p.d; c += 32 * kWidth) {
      const P z = *reinterpret_cast<const P*>(p.in[o] + i * p.ld[o] + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) square += z.v[k] * z.v[k];
    }
    const T norm = sqrt(warp_sum(square));
    factor[o] = p.length.factor(norm);
    if (first == 0) p.norm[o][i] = norm;
  }
  T dot = 0;
  for (int64_t c = first; c < p.d; c += 32 * kWidth) {
    P z[2] = {};
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      if (o >= p.operands) break;
      z[o] = *reinterpret_cast<const P*>(p.in[o] + i * p.ld[o] + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) z[o].v[k] *= factor[o];
      *reinterpret_cast<P*>(p.x[o] + i * p.d + c) = z[o];
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) dot += z[0].v[k] * z[1].v[k];
  }
  if (p.dot == nullptr) return;
  dot = warp_sum(dot);
  if (first == 0) p.dot[i] = dot;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) unit_rows_grad_kernel(const __grid_constant__ UnitRows<T> p) {
  using P = Pack<T, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  const int64_t first = threadIdx.x % 32 * kWidth;
  const bool paired = p.operands == 2 && p.dot != nullptr;
  const T s = paired ? p.dot[i] : T(0);
#pragma unroll
  for (int o = 0; o < 2; ++o) {
    if (o >= p.operands) break;
    // g . x with g = grad_x + s y; the rows come from memory here and from the cache below
    const auto gradient = [&](int64_t c) {
      P g = *reinterpret_cast<const P*>(p.in[o] + i * p.ld[o] + c);
      if (paired) {
        const P y = *reinterpret_cast<const P*>(p.x[1 - o] + i * p.d + c);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) g.v[k] += s * y.v[k];
      }
      return g;
    };
    T sum = 0;
    for (int64_t c = first; c < p.d; c += 32 * kWidth) {
      const P g = gradient(c), x = *reinterpret_cast<const P*>(p.x[o] + i * p.d + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum += g.v[k] * x.v[k];
    }
    const T norm = p.norm[o][i], factor = p.length.factor(norm), along = warp_sum(sum) * p.length.along(norm);
    for (int64_t c = first; c < p.d; c += 32 * kWidth) {
      P g = gradient(c);
      const P x = *reinterpret_cast<const P*>(p.x[o] + i * p.d + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) g.v[k] = factor * (g.v[k] - along * x.v[k]);
      *reinterpret_cast<P*>(p.grad[o] + i * p.d + c) = g;
    }
  }
}

template <typename T>
void run(const std::vector<TensorView>& in, const std::vector<TensorView>& x, const std::vector<TensorView>& norm,
         double longest, const TensorView& dot, const std::vector<TensorView>* grad, int64_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  UnitRows<T> p{};
  p.n = x[0].shape[0], p.d = x[0].shape[1], p.operands = static_cast<int>(x.size());
  const T l = static_cast<T>(longest);
  p.length = longest > 0 ? Length<T>{l, l, T(1)} : Length<T>{T(1), T(1e-12), T(1e12)};
  p.dot = dot.as<T>();
  bool wide = true;
  for (int o = 0; o < p.operands; ++o) {
    p.in[o] = in[o].as<T>(), p.ld[o] = in[o].stride[0];
    p.x[o] = x[o].as<T>(), p.norm[o] = norm[o].as<T>();
    wide = wide && packs(in[o], kWide) && packs(x[o], kWide);
    if (grad == nullptr) continue;
    p.grad[o] = (*grad)[o].as<T>();
    wide = wide && packs((*grad)[o], kWide);
  }
  const dim3 grid(static_cast<unsigned>(ceil_div(p.n, kWarps)));
  if (grad == nullptr)
    launch("unit_rows", wide ? unit_rows_kernel<T, kWide> : unit_rows_kernel<T, 1>, grid, kThreads, 0, stream, p);
  else
    launch("unit_rows_backward", wide ? unit_rows_grad_kernel<T, kWide> : unit_rows_grad_kernel<T, 1>, grid, kThreads,
           0, stream, p);
}

void check_device(const TensorView& x) { SSLSPEC_CHECK(x.device != kCpu, "unit_rows: rows must be on a CUDA device"); }

}  // namespace

void unit_rows_forward(const std::vector<TensorView>& z, double longest, const std::vector<TensorView>& x,
                       const std::vector<TensorView>& norm, TensorView dot, int64_t stream) {
  check_unit_rows(z, x, norm, dot);
  SSLSPEC_CHECK(dot.present() == (z.size() == 2), "unit_rows: dot goes with two operands, got ", z.size());
  check_device(z[0]);
  const DeviceGuard guard(z[0].device);
  (z[0].dtype == DType::f64 ? run<double> : run<float>)(z, x, norm, longest, dot, nullptr, stream);
}

void unit_rows_backward(const std::vector<TensorView>& x, const std::vector<TensorView>& norm, double longest,
                        const std::vector<TensorView>& grad, TensorView grad_dot, const std::vector<TensorView>& grad_z,
                        int64_t stream) {
  check_unit_rows(grad, x, norm, grad_dot);
  check_unit_rows(grad, grad_z, norm, grad_dot);
  check_device(x[0]);
  const DeviceGuard guard(x[0].device);
  (x[0].dtype == DType::f64 ? run<double> : run<float>)(grad, x, norm, longest, grad_dot, &grad_z, stream);
}

}  // namespace sslspec::cuda

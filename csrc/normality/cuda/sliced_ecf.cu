// Sums of cosines and sines of projections, and the gradient of a function of them.
//
// Tiling: a thread owns one direction of one view and goes through a slab of rows; loads are coalesced along the
// directions. Sums and coefficients of a thread lie in shared memory, [2][knots][threads], because the number of knots
// is not known to the compiler. The recurrence is that of csrc/normality/cpu/sliced_ecf.kernel.cpp. Precision policy:
// all of it in the dtype of the projections, sums over kSlab rows; slabs are added up by the caller in double.
#include "gpu/copy.cuh"
#include "gpu/types.cuh"
#include "normality/check.h"
#include "normality/cuda/normality.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "sliced_ecf";
constexpr int kSlab = 64;  // rows of a block

__device__ __forceinline__ void sine_cosine(float x, float* s, float* c) { sincosf(x, s, c); }
__device__ __forceinline__ void sine_cosine(double x, double* s, double* c) { ::sincos(x, s, c); }

// cos(k theta) and sin(k theta), k = 1 first.
template <typename T>
struct Angle {
  T cosine, sine, dc, ds, minus4;
  __device__ __forceinline__ explicit Angle(T half) {
    T s, c;
    sine_cosine(half, &s, &c);
    const T twice = 2 * s * s;
    dc = -twice, ds = 2 * s * c, minus4 = -2 * twice;
    cosine = 1 - twice, sine = ds;
  }
  __device__ __forceinline__ void advance() {
    dc += minus4 * cosine, ds += minus4 * sine;
    cosine += dc, sine += ds;
  }
};

template <typename T>
struct EcfArgs {
  T* half;  // [views, n, count]
  int64_t n, count, strips;
  int knots;
  T* other;  // sums [slabs, views, 2, knots, count], or coefficients [views, 2, knots, count]
};

template <typename T>
__global__ void sums_kernel(const __grid_constant__ EcfArgs<T> p) {
  T* part = reinterpret_cast<T*>(dynamic_shared()) + threadIdx.x;
  const int step = blockDim.x;
  const int64_t slab = blockIdx.x / p.strips, s = blockIdx.x % p.strips * step + threadIdx.x, view = blockIdx.y;
  if (s >= p.count) return;
  for (int k = 0; k < 2 * p.knots; ++k) part[k * step] = 0;
  const int64_t end = (slab + 1) * kSlab < p.n ? (slab + 1) * kSlab : p.n;
  for (int64_t i = slab * kSlab; i < end; ++i) {
    Angle<T> angle(p.half[(view * p.n + i) * p.count + s]);
    for (int k = 0; k < p.knots; ++k) {
      part[k * step] += angle.cosine, part[(p.knots + k) * step] += angle.sine;
      angle.advance();
    }
  }
  T* out = p.other + (slab * gridDim.y + view) * 2 * p.knots * p.count + s;
  for (int k = 0; k < 2 * p.knots; ++k) out[k * p.count] = part[k * step];
}

template <typename T>
__global__ void gradient_kernel(const __grid_constant__ EcfArgs<T> p) {
  T* coefficient = reinterpret_cast<T*>(dynamic_shared()) + threadIdx.x;
  const int step = blockDim.x;
  const int64_t slab = blockIdx.x / p.strips, s = blockIdx.x % p.strips * step + threadIdx.x, view = blockIdx.y;
  if (s >= p.count) return;
  const T* in = p.other + view * 2 * p.knots * p.count + s;
  for (int k = 0; k < 2 * p.knots; ++k) coefficient[k * step] = in[k * p.count];
  const int64_t end = (slab + 1) * kSlab < p.n ? (slab + 1) * kSlab : p.n;
  for (int64_t i = slab * kSlab; i < end; ++i) {
    T* at = p.half + (view * p.n + i) * p.count + s;
    Angle<T> angle(*at);
    T total = 0;
    for (int k = 0; k < p.knots; ++k) {
      total += coefficient[k * step] * angle.cosine + coefficient[(p.knots + k) * step] * angle.sine;
      angle.advance();
    }
    *at = total;
  }
}

template <typename T>
void run(void (*kernel)(EcfArgs<T>), const TensorView& half, const TensorView& other, int64_t knots, int64_t stream) {
  const DeviceGuard guard(half.device);
  const int64_t limit = shared_limit(), each = 2 * knots * int64_t(sizeof(T));
  int threads = 128;
  while (threads > 32 && threads * each > limit) threads /= 2;
  SSLSPEC_CHECK(threads * each <= limit, kOp, ": there must be at most ", limit / (32 * each / knots),
                " knots on this device, got ", knots);
  EcfArgs<T> p{half.as<T>(), half.shape[1], half.shape[2], ceil_div(half.shape[2], threads), int(knots), other.as<T>()};
  const dim3 grid(static_cast<unsigned>(p.strips * ceil_div(p.n, kSlab)), static_cast<unsigned>(half.shape[0]));
  launch(kOp, kernel, grid, threads, size_t(threads * each), stream, p);
}

void check_half(const TensorView& half) {
  SSLSPEC_CHECK(half.device != kCpu && half.ndim == 3, kOp, ": half must be (views, n, S) on a CUDA device, got ",
                shape_text(half));
  SSLSPEC_CHECK(half.shape[0] <= 65535, kOp, ": there must be at most 65535 views, got ", half.shape[0]);
  check_contiguous(kOp, "half", half, 3, half.shape, half.dtype, half.device);
}

}  // namespace

int64_t sliced_ecf_slabs(int64_t n) { return ceil_div(n, kSlab); }

void sliced_ecf_sums(TensorView half, TensorView sums, int64_t stream) {
  check_half(half);
  SSLSPEC_CHECK(sums.ndim == 4, kOp, ": sums must be (slabs, views, 2 knots, S), got ", shape_text(sums));
  const int64_t shape[4] = {sliced_ecf_slabs(half.shape[1]), half.shape[0], sums.shape[2], half.shape[2]};
  check_contiguous(kOp, "sums", sums, 4, shape, half.dtype, half.device);
  if (half.dtype == DType::f64)
    run<double>(sums_kernel<double>, half, sums, sums.shape[2] / 2, stream);
  else
    run<float>(sums_kernel<float>, half, sums, sums.shape[2] / 2, stream);
}

void sliced_ecf_gradient(TensorView half, TensorView coefficients, int64_t stream) {
  check_half(half);
  SSLSPEC_CHECK(coefficients.ndim == 3, kOp, ": coefficients must be (views, 2 knots, S), got ",
                shape_text(coefficients));
  const int64_t shape[3] = {half.shape[0], coefficients.shape[1], half.shape[2]};
  check_contiguous(kOp, "coefficients", coefficients, 3, shape, half.dtype, half.device);
  if (half.dtype == DType::f64)
    run<double>(gradient_kernel<double>, half, coefficients, coefficients.shape[1] / 2, stream);
  else
    run<float>(gradient_kernel<float>, half, coefficients, coefficients.shape[1] / 2, stream);
}

}  // namespace sslspec::cuda

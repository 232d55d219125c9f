// Products of rows -> values of a radial kernel and the weights of its gradient.
//
// Tiling: a block of kThreads owns one row of the products; threads take every kThreads-th column, so that loads and
// stores are coalesced. The coefficients of a series lie in shared memory. Precision policy: distances and functions in
// the dtype of the products, the sums over a row in double and in a fixed order.
#include "gpu/copy.cuh"
#include "gpu/types.cuh"
#include "gpu/reduce.cuh"
#include "normality/check.h"
#include "normality/cuda/normality.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "pairwise_kernel";
constexpr int kThreads = 128, kWarps = kThreads / 32;

template <typename T>
struct KernelArgs {
  T* dots;  // [views, rows, n]
  int64_t rows, n, first;
  const double *lengths, *offsets;  // [views, n]
  RadialKind radial;
  int terms;
  T parameter;
  const double* table;  // [2, terms]
  T* row_sum;           // [views, rows]
  double* row_value;
};

__device__ __forceinline__ float power_e(float x) { return expf(x); }
__device__ __forceinline__ double power_e(double x) { return ::exp(x); }
__device__ __forceinline__ float root(float x) { return sqrtf(x); }
__device__ __forceinline__ double root(double x) { return ::sqrt(x); }

// k(r) and k'(r); table: [terms][2] in shared memory. See csrc/normality/cpu/radial.h.
template <typename T>
__device__ __forceinline__ void radial_of(const KernelArgs<T>& p, const T* table, T r, T* k, T* dk) {
  if (p.radial == RadialKind::gaussian) {
    *k = power_e(-p.parameter * r), *dk = -p.parameter * *k;
  } else if (p.radial == RadialKind::inverse_root) {
    *k = 1 / root(p.parameter + r), *dk = T(-0.5) * *k * *k * *k;
  } else {
    const T x = 1 - r * (2 / p.parameter), twice = x + x;
    T a = 0, a2 = 0, b = 0, b2 = 0;
    for (int m = p.terms - 1; m > 0; --m) {
      const T next = twice * a + (table[2 * m] - a2), dnext = twice * b + (table[2 * m + 1] - b2);
      a2 = a, a = next, b2 = b, b = dnext;
    }
    *k = x * a + (table[0] - a2), *dk = x * b + (table[1] - b2);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) weights_kernel(const __grid_constant__ KernelArgs<T> p) {
  __shared__ double slots[2][kWarps];
  T* table = reinterpret_cast<T*>(dynamic_shared());
  for (int m = threadIdx.x; m < p.terms; m += kThreads)
    table[2 * m] = static_cast<T>(p.table[m]), table[2 * m + 1] = static_cast<T>(p.table[p.terms + m]);
  __syncthreads();
  const int64_t row = blockIdx.x, view = row / p.rows, i = p.first + row % p.rows;
  const double* lengths = p.lengths + view * p.n;
  const double* offsets = p.offsets + view * p.n;
  const T length = static_cast<T>(lengths[i]), offset = static_cast<T>(offsets[i]);
  T* dots = p.dots + row * p.n;
  double sum = 0, value = 0;
  for (int64_t j = threadIdx.x; j < p.n; j += kThreads) {
    const T distance = static_cast<T>(lengths[j]) + length - 2 * dots[j];
    T k, dk;
    radial_of(p, table, distance < 0 ? T(0) : distance, &k, &dk);
    if (i == j) dk = 0;
    dots[j] = dk;
    sum += double(dk);
    if (i != j) value += double(k - offset - static_cast<T>(offsets[j]));
  }
  sum = warp_sum(sum), value = warp_sum(value);
  if (threadIdx.x % 32 == 0) slots[0][threadIdx.x / 32] = sum, slots[1][threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) slots[0][0] += slots[0][w], slots[1][0] += slots[1][w];
  p.row_sum[row] = static_cast<T>(slots[0][0]), p.row_value[row] = slots[1][0];
}

template <typename T>
void launch_weights(KernelArgs<T> p, const TensorView& dots, const Radial& radial, const TensorView& row_sum,
                    int64_t stream) {
  p.dots = dots.as<T>(), p.row_sum = row_sum.as<T>();
  p.radial = static_cast<RadialKind>(radial.kind), p.parameter = static_cast<T>(radial.parameter);
  p.table = radial.table.as<double>(), p.terms = radial.table.present() ? int(radial.table.shape[1]) : 0;
  const int64_t bytes = 2 * p.terms * int64_t(sizeof(T));
  SSLSPEC_CHECK(bytes + 1024 <= shared_limit(), kOp, ": table must fit in shared memory, got ", p.terms, " terms");
  const dim3 grid(static_cast<unsigned>(dots.shape[0] * p.rows));
  launch(kOp, weights_kernel<T>, grid, kThreads, size_t(bytes), stream, p);
}

}  // namespace

void pairwise_kernel_weights(TensorView dots, int64_t first, TensorView lengths, TensorView offsets,
                             const Radial& radial, TensorView row_sum, TensorView row_value, int64_t stream) {
  SSLSPEC_CHECK(dots.device != kCpu && dots.ndim == 3, kOp, ": dots must be (views, rows, n) on a CUDA device, got ",
                shape_text(dots));
  SSLSPEC_CHECK(dots.dtype == DType::f32 || dots.dtype == DType::f64, kOp, ": dots must be float32 or float64, got ",
                dots.dtype);
  const int64_t views = dots.shape[0], rows = dots.shape[1], n = dots.shape[2], all[2] = {views, n};
  SSLSPEC_CHECK(0 <= first && first + rows <= n, kOp, ": rows must lie in 0 ... ", n, ", got ", first, " + ", rows);
  const int device = dots.device;
  check_contiguous(kOp, "dots", dots, 3, dots.shape, dots.dtype, device);
  check_contiguous(kOp, "lengths", lengths, 2, all, DType::f64, device);
  check_contiguous(kOp, "offsets", offsets, 2, all, DType::f64, device);
  check_contiguous(kOp, "row_sum", row_sum, 2, dots.shape, dots.dtype, device);
  check_contiguous(kOp, "row_value", row_value, 2, dots.shape, DType::f64, device);
  radial.check(kOp, device);
  const DeviceGuard guard(device);
  const auto run = [&](auto t) {
    KernelArgs<typename decltype(t)::type> p{};
    p.rows = rows, p.n = n, p.first = first;
    p.lengths = lengths.as<double>(), p.offsets = offsets.as<double>(), p.row_value = row_value.as<double>();
    launch_weights(p, dots, radial, row_sum, stream);
  };
  dots.dtype == DType::f64 ? run(Type<double>{}) : run(Type<float>{});
}

}  // namespace sslspec::cuda

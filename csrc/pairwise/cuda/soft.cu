// Logits -> statistics of their rows -> weights of soft cross-entropy.
//
// Tiling: a block of kThreads owns one row; threads take every kThreads-th column, so that loads and stores are
// coalesced. Precision policy: logits and weights in the dtype of the logits; sums over a row in double, in a fixed
// order. Entropies are log(sum e) - sum e (t - top) / sum e with e = exp(t - top): no term is negative.
#include "gpu/types.cuh"
#include "pairwise/cuda/soft.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "pairwise_soft";
constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ float power_e(float x) { return expf(x); }
__device__ __forceinline__ double power_e(double x) { return ::exp(x); }

template <typename T>
__device__ __forceinline__ T lowest() {
  return sizeof(T) == 4 ? T(-3e38) : T(-1e308);
}

// One row of logits.
template <typename T>
struct Logits {
  const T* row;
  const T* bias;
  int64_t own;  // the column that is left out, or -1
  __device__ __forceinline__ T operator()(int64_t j) const { return bias == nullptr ? row[j] : row[j] + bias[j]; }
};

template <typename T>
struct SoftArgs {
  T* student;  // [rows, k]
  const T *student_lse, *teacher, *teacher_lse, *bias, *weight, *tilt;
  T *lse, *entropy, *rows;
  int64_t k, first;
  bool skip_self;
};

// The sum over a block; every thread gets it.
__device__ __forceinline__ double block_sum(double x, double* slots) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
  __syncthreads();
  x = slots[0];
  for (int w = 1; w < kWarps; ++w) x += slots[w];
  __syncthreads();
  return x;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) soft_statistics_kernel(const __grid_constant__ SoftArgs<T> p) {
  __shared__ double slots[kWarps];
  const int64_t i = blockIdx.x;
  const Logits<T> s{p.student + i * p.k, p.bias, p.skip_self ? p.first + i : -1};
  T high = lowest<T>();
  for (int64_t j = threadIdx.x; j < p.k; j += kThreads)
    if (j != s.own) high = max_nan(high, s(j));
  const T top = static_cast<T>(block_max<kWarps>(double(high), slots));
  double sum = 0, below = 0;
  for (int64_t j = threadIdx.x; j < p.k; j += kThreads) {
    if (j == s.own) continue;
    const T x = s(j) - top, e = power_e(x);
    sum += double(e);
    if (e > 0) below += double(e) * double(x);
  }
  sum = block_sum(sum, slots), below = block_sum(below, slots);
  if (threadIdx.x != 0) return;
  p.lse[i] = sum == 0 ? T(-INFINITY) : static_cast<T>(double(top) + log(sum));
  p.entropy[i] = sum == 0 ? T(0) : static_cast<T>(log(sum) - below / sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) soft_weights_kernel(const __grid_constant__ SoftArgs<T> p) {
  __shared__ double slots[kWarps];
  const int64_t i = blockIdx.x, own = p.skip_self ? p.first + i : -1;
  T* s = p.student + i * p.k;
  const T lse = p.student_lse[i], g = p.weight[i];
  const Logits<T> t{p.teacher == nullptr ? nullptr : p.teacher + i * p.k, p.bias, own};
  const T other = p.teacher == nullptr ? T(0) : p.teacher_lse[i];
  double mean = 0, loss = 0;
  if (p.tilt != nullptr) {
    for (int64_t j = threadIdx.x; j < p.k; j += kThreads)
      if (j != own) mean += double(power_e(s[j] - lse) * p.tilt[j]);
    mean = block_sum(mean, slots);
  }
  for (int64_t j = threadIdx.x; j < p.k; j += kThreads) {
    if (j == own) {
      s[j] = 0;
      continue;
    }
    const T above = lse - s[j], prob = power_e(-above);
    if (p.teacher == nullptr) {
      s[j] = p.tilt == nullptr ? g * prob : g * prob * (p.tilt[j] - static_cast<T>(mean));
    } else {
      const T q = power_e(t(j) - other);
      if (!(q == 0)) loss += double(q) * double(above);
      s[j] = g * (prob - q);
    }
  }
  if (p.teacher == nullptr) return;
  loss = block_sum(loss, slots);
  if (threadIdx.x == 0) p.rows[i] = static_cast<T>(double(g) * loss);
}

void check_panel(const char* name, const TensorView& t, int64_t rows, int64_t k, DType dtype, int device) {
  check_matrix(kOp, name, t, rows, k, dtype, device);
  SSLSPEC_CHECK(rows <= 1 || t.stride[0] == k, kOp, ": ", name, " must be contiguous");
}

void check_logits(const TensorView& logits) {
  SSLSPEC_CHECK(logits.device != kCpu && logits.ndim == 2, kOp, ": logits must be (rows, k) on a CUDA device, got ",
                shape_text(logits));
  SSLSPEC_CHECK(logits.dtype == DType::f32 || logits.dtype == DType::f64, kOp,
                ": logits must be float32 or float64, got ", logits.dtype);
  check_panel("logits", logits, logits.shape[0], logits.shape[1], logits.dtype, logits.device);
}

template <typename T>
void run(void (*kernel)(SoftArgs<T>), const SoftArgs<T>& p, int64_t rows, int64_t stream) {
  launch(kOp, kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, p);
}

}  // namespace

void pairwise_soft_statistics(TensorView logits, TensorView bias, int64_t first, bool skip_self, TensorView lse,
                              TensorView entropy, int64_t stream) {
  check_logits(logits);
  const int64_t rows = logits.shape[0], k = logits.shape[1];
  const int device = logits.device;
  if (bias.present()) check_vector(kOp, "bias", bias, k, logits.dtype, device);
  check_vector(kOp, "lse", lse, rows, logits.dtype, device);
  check_vector(kOp, "entropy", entropy, rows, logits.dtype, device);
  const DeviceGuard guard(device);
  const auto run_for = [&](auto type) {
    using T = typename decltype(type)::type;
    SoftArgs<T> p{};
    p.student = logits.as<T>(), p.bias = bias.as<T>(), p.lse = lse.as<T>(), p.entropy = entropy.as<T>();
    p.k = k, p.first = first, p.skip_self = skip_self;
    run<T>(soft_statistics_kernel<T>, p, rows, stream);
  };
  logits.dtype == DType::f64 ? run_for(Type<double>{}) : run_for(Type<float>{});
}

void pairwise_soft_weights(const std::array<TensorView, 2>& student, const std::array<TensorView, 3>& teacher,
                           const std::array<TensorView, 2>& own, int64_t first, bool skip_self, TensorView rows,
                           int64_t stream) {
  const auto& [logits, lse] = student;
  const auto& [targets, target_lse, bias] = teacher;
  const auto& [weight, tilt] = own;
  check_logits(logits);
  const int64_t n = logits.shape[0], k = logits.shape[1];
  const int device = logits.device;
  check_vector(kOp, "lse", lse, n, logits.dtype, device);
  check_vector(kOp, "weight", weight, n, logits.dtype, device);
  if (targets.present()) {
    check_panel("teacher logits", targets, n, k, logits.dtype, device);
    check_vector(kOp, "teacher lse", target_lse, n, logits.dtype, device);
    check_vector(kOp, "rows", rows, n, logits.dtype, device);
    if (bias.present()) check_vector(kOp, "bias", bias, k, logits.dtype, device);
  }
  if (tilt.present()) check_vector(kOp, "tilt", tilt, k, logits.dtype, device);
  SSLSPEC_CHECK(!tilt.present() || !targets.present(), kOp, ": a tilt is for rows without teachers");
  const DeviceGuard guard(device);
  const auto run_for = [&, &logits = logits, &lse = lse, &targets = targets, &target_lse = target_lse, &bias = bias,
                        &weight = weight, &tilt = tilt](auto type) {
    using T = typename decltype(type)::type;
    SoftArgs<T> p{};
    p.student = logits.as<T>(), p.student_lse = lse.as<T>(), p.teacher = targets.as<T>();
    p.teacher_lse = target_lse.as<T>(), p.bias = bias.as<T>(), p.weight = weight.as<T>(), p.tilt = tilt.as<T>();
    p.rows = rows.as<T>(), p.k = k, p.first = first, p.skip_self = skip_self;
    run<T>(soft_weights_kernel<T>, p, n, stream);
  };
  logits.dtype == DType::f64 ? run_for(Type<double>{}) : run_for(Type<float>{});
}

}  // namespace sslspec::cuda

// Entry points of sigmoid_loss.h, and the passes around the products.
//
// Tiling: one block adds up the sums of all tiles in an order that their number alone decides, in fp64; a thread per
// pack of 16 bytes of both gradients elsewhere. Memory traffic of the backward pass: products once, gradients once.
#include "fused/cuda/sigmoid_loss.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "gpu/types.cuh"
#include "pairwise/cuda/kernels.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "sigmoid_loss";
constexpr int kThreads = 256, kSumThreads = 1024;

__global__ void __launch_bounds__(kSumThreads)
    finish_kernel(const SigmoidSums* sums, int64_t count, double weight, float* loss, float* numbers) {
  __shared__ double slots[3][kSumThreads / 32];
  double total[3] = {0, 0, 0};
#pragma unroll 4
  for (int64_t k = threadIdx.x; k < count; k += kSumThreads)
    total[0] += sums[k].value, total[1] += sums[k].product, total[2] += sums[k].weight;
#pragma unroll
  for (int q = 0; q < 3; ++q) {
    const double sum = warp_sum(total[q]);
    if (threadIdx.x % 32 == 0) slots[q][threadIdx.x / 32] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
#pragma unroll
  for (int q = 0; q < 3; ++q) {
    const double sum = warp_sum(slots[q][threadIdx.x]);
    if (threadIdx.x == 0) *(q == 0 ? loss : numbers + q - 1) = static_cast<float>(weight * sum);
  }
}

template <typename Out>
struct GradientArgs {
  const float* product[2];
  Out* grad[2];  // the second may be null
  int64_t rows[2], d, width;
  const float *numbers, *scale, *factor;
  float number;
  float* grad_numbers;
};

template <typename Out, int kWidth>
__global__ void __launch_bounds__(kThreads) gradient_kernel(const __grid_constant__ GradientArgs<Out> p) {
  const float factor = *p.factor, times = factor * (p.scale == nullptr ? p.number : p.number * *p.scale);
  const int64_t packs = p.d / kWidth, at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at < 2 && p.grad_numbers != nullptr) p.grad_numbers[at] = factor * p.numbers[at];
  const int o = at < p.rows[0] * packs ? 0 : 1;
  const int64_t own = o == 0 ? at : at - p.rows[0] * packs, i = own / packs, c = own % packs * kWidth;
  if (p.grad[o] == nullptr || i >= p.rows[o]) return;
  Pack<float, kWidth> g;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) g.v[k] = times * p.product[o][i * p.width + c + k];
  store_narrow<Out, kWidth>(p.grad[o] + i * p.d + c, g);
}

SigmoidProblem problem_of(const SigmoidInputs& in, bool fast, int64_t stream) {
  const TensorView &x = in.x, &y = in.y;
  const int device = x.device;
  SSLSPEC_CHECK(device != kCpu, kOp, ": x must be on a CUDA device");
  SSLSPEC_CHECK(x.ndim == 2 && (x.dtype == DType::bf16 || x.dtype == DType::f32), kOp,
                ": x must be a bfloat16 or float32 matrix, got ", x.dtype, " ", shape_text(x));
  check_matrix(kOp, "x", x, x.shape[0], x.shape[1], x.dtype, device);
  check_matrix(kOp, "y", y, x.shape[0], x.shape[1], x.dtype, device);
  const int64_t size = x.dtype == DType::bf16 ? 2 : 4;
  for (const TensorView* t : {&x, &y}) {
    const bool aligned = reinterpret_cast<uintptr_t>(t->data) % 16 == 0 && t->shape[1] * size % 16 == 0 &&
                         (t->shape[0] <= 1 || t->stride[0] * size % 16 == 0);
    SSLSPEC_CHECK(aligned, kOp, ": rows must start at and fill multiples of 16 bytes, got shape ", shape_text(*t));
  }
  if (in.scale.present()) check_dense(kOp, "scale", in.scale, 0, nullptr, DType::f32, device);
  if (in.bias.present()) check_dense(kOp, "bias", in.bias, 0, nullptr, DType::f32, device);
  if (in.row_factor.present()) check_vector(kOp, "row_factor", in.row_factor, x.shape[0], DType::f32, device);
  return {x,
          y,
          in.scale.as<float>(),
          in.bias.as<float>(),
          in.row_factor.as<float>(),
          static_cast<float>(in.number),
          static_cast<float>(in.offset),
          fast ? Precision::fast : Precision::exact,
          device,
          stream};
}

}  // namespace

int64_t sigmoid_loss_sums_size(int64_t rows, int64_t m) {
  constexpr int64_t kTile = 128, kFloats = sizeof(SigmoidSums) / sizeof(float);
  return ceil_div(rows, kTile) * ceil_div(m, kTile) * kSigmoidSlots * kFloats;
}

void sigmoid_loss_weights(const SigmoidInputs& inputs, int64_t row0, TensorView weights, TensorView sums, bool fast,
                          int64_t stream) {
  const SigmoidProblem p = problem_of(inputs, fast, stream);
  const int64_t n = p.x.shape[0], m = p.y.shape[0];
  SSLSPEC_CHECK(weights.ndim == 2, kOp, ": weights must be a matrix, got ", shape_text(weights));
  const int pieces = p.x.dtype == DType::f32 && weights.dtype == DType::bf16 ? kWeightPieces : 1;
  const int64_t rows = weights.shape[0] / pieces;
  SSLSPEC_CHECK(rows * pieces == weights.shape[0] && row0 >= 0 && row0 % 128 == 0 && row0 + rows <= n &&
                    (rows % 128 == 0 || row0 + rows == n),
                kOp, ": rows ", row0, " to ", row0 + rows, " must be multiples of 128 or end at ", n);
  check_matrix(kOp, "weights", weights, pieces * rows, m, pieces == 1 ? p.x.dtype : DType::bf16, p.device);
  check_vector(kOp, "sums", sums, sigmoid_loss_sums_size(rows, m), DType::f32, p.device);
  pairwise_sigmoid(p, {row0, rows, weights.data, weights.stride[0], pieces}, sums.as<SigmoidSums>());
}

void sigmoid_loss_finish(TensorView sums, double weight, TensorView loss, TensorView numbers, int64_t stream) {
  constexpr int64_t kFloats = sizeof(SigmoidSums) / sizeof(float);
  check_dense(kOp, "loss", loss, 0, nullptr, DType::f32, sums.device);
  check_vector(kOp, "numbers", numbers, 2, DType::f32, sums.device);
  check_vector(kOp, "sums", sums, sums.shape[0], DType::f32, sums.device);
  SSLSPEC_CHECK(sums.shape[0] % kFloats == 0, kOp, ": sums must come in threes, got ", shape_text(sums));
  const DeviceGuard guard(sums.device);
  launch("sigmoid_loss_finish", finish_kernel, dim3(1), kSumThreads, 0, stream, sums.as<SigmoidSums>(),
         sums.shape[0] / kFloats, weight, loss.as<float>(), numbers.as<float>());
}

void sigmoid_loss_gradient(const TensorPair& products, TensorView numbers, TensorView scale, double number,
                           TensorView factor, const TensorPair& grads, TensorView grad_numbers, int64_t stream) {
  const auto& [first, second] = grads;
  const int device = first.device;
  const int64_t n = first.shape[0], d = first.shape[1], width = products.first.shape[1];
  SSLSPEC_CHECK(width >= d, kOp, ": products must have at least ", d, " columns, got ", width);
  SSLSPEC_CHECK(products.second.present() == second.present(), kOp, ": the second product goes with its gradient");
  check_vector(kOp, "numbers", numbers, 2, DType::f32, device);
  check_dense(kOp, "factor", factor, 0, nullptr, DType::f32, device);
  if (scale.present()) check_dense(kOp, "scale", scale, 0, nullptr, DType::f32, device);
  if (grad_numbers.present()) check_vector(kOp, "grad_numbers", grad_numbers, 2, DType::f32, device);
  for (const auto& [product, grad] : {std::pair{products.first, first}, std::pair{products.second, second}}) {
    if (!grad.present()) continue;
    check_matrix(kOp, "product", product, n, width, DType::f32, device);
    check_matrix(kOp, "grad", grad, n, d, first.dtype, device);
    SSLSPEC_CHECK(n <= 1 || (product.stride[0] == width && grad.stride[0] == d), kOp,
                  ": products and gradients must be contiguous");
  }
  const DeviceGuard guard(device);
  dispatch_rows(kOp, first.dtype, [&](auto rows) {
    using Out = typename decltype(rows)::type;
    if constexpr (std::is_same_v<Out, double>) {
      fail(kOp, ": float64 has no such pass");
    } else {
      constexpr int kPack = 16 / sizeof(Out);
      const GradientArgs<Out> args = {{products.first.as<float>(), products.second.as<float>()},
                                      {first.as<Out>(), second.as<Out>()},
                                      {n, n},
                                      d,
                                      width,
                                      numbers.as<float>(),
                                      scale.as<float>(),
                                      factor.as<float>(),
                                      static_cast<float>(number),
                                      grad_numbers.as<float>()};
      const bool packed = d % kPack == 0 && (reinterpret_cast<uintptr_t>(first.data) % 16 == 0) &&
                          (reinterpret_cast<uintptr_t>(second.data) % 16 == 0);
      const int64_t threads = std::max<int64_t>(2, (second.present() ? 2 : 1) * n * (packed ? d / kPack : d));
      launch("sigmoid_loss_gradient", packed ? gradient_kernel<Out, kPack> : gradient_kernel<Out, 1>,
             dim3(static_cast<unsigned>(ceil_div(threads, kThreads))), kThreads, 0, stream, args);
    }
  });
}

}  // namespace sslspec::cuda

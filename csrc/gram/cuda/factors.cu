// The backward pass of `gram` from factors and matrices that the forward pass kept: a product on Hopper for each operand
// (hopper/gradient_sm90a.cu), in place of the products and the pass over them.
#include <algorithm>

#include "gpu/hopper.h"
#include "gram/cuda/gram.cuh"
#include "gram/cuda/hopper/gradient.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "gram";

}  // namespace

#ifndef SSLSPEC_GRADIENT_TILES  // the emulator's tests use few
#define SSLSPEC_GRADIENT_TILES 64
#endif

bool gram_keeps_factors(TensorView x, bool columns, bool half) {
  SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be a matrix, got ", shape_text(x));
  const int64_t n = x.shape[0], d = x.shape[1], side = columns ? d : n;
  const bool fits = half && x.dtype == DType::bf16 && d % 8 == 0 && side % 8 == 0 && side * side <= n * d &&
                    std::max(n, d) < int64_t{1} << 30 && ceil_div(n, 128) * ceil_div(d, 128) >= SSLSPEC_GRADIENT_TILES;
  if (!kHopperBuilt || !fits || !hopper_names("gradient")) return false;
  const DeviceGuard guard(x.device);
  return capability_major() == 9;
}

void gram_gradients_of_factors(const TensorView (&rows)[2], const GramForm& form, const TensorView& columns,
                               const TensorView& kept, const float* factor, const TensorPair& grads, int64_t stream) {
  const int64_t n = kept.shape[1], d = kept.shape[2], side = form.kept == kKeptColumns ? d : n;
  const auto* factors = kept.as<__nv_bfloat16>();
  const auto* matrices = factors + 2 * n * d;
  for (const TensorView& t : rows)
    SSLSPEC_CHECK(reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride[0] > 0 && t.stride[0] % 8 == 0, kOp,
                  ": rows must lie at multiples of 16 bytes");
  SSLSPEC_CHECK(d % 8 == 0 && side % 8 == 0 && side * side <= n * d, kOp, ": these factors are not kept");
  const auto column = [&](int row, int64_t o) { return columns.as<float>() + (row + o) * d; };
  for (int64_t o = 0; o < 2; ++o) {
    const auto *f = factors + o * n * d, *matrix = matrices + o * side * side;
    const bool by_columns = form.kept == kKeptColumns;
    const GradientProblem p = {by_columns ? f : matrix,
                               by_columns ? matrix : f,
                               rows[o].data,
                               rows[1 - o].data,
                               rows[o].stride[0],
                               rows[1 - o].stride[0],
                               column(kShift, o),
                               column(kDiagonal, o),
                               column(kOwnFactor, o),
                               factor,
                               static_cast<float>(form.alpha),
                               static_cast<float>(form.near),
                               (o == 0 ? grads.first : grads.second).data,
                               n,
                               d,
                               side,
                               rows[o].device,
                               stream};
    if constexpr (kHopperBuilt)
      gram_gradient_sm90a(p);
    else
      SSLSPEC_CHECK(false, kOp, ": this build has no kernels for compute capability 9.0");
  }
}

}  // namespace sslspec::cuda

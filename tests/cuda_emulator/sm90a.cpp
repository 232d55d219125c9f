// Host stand-ins: for csrc/cuda/pairwise_weights_sm90a.cu the same numbers without CUTLASS; the chained kernel of Hopper
// is not emulated, and only asked for by an environment variable.
#include <cuda_bf16.h>

#include <cmath>

#include "common/check.h"
#include "cuda/pairwise_sm90a.h"

namespace sslspec::cuda {

void pairwise_weights_sm90a(const HopperWeights& p) {
  const auto *x = static_cast<const __nv_bfloat16*>(p.x), *y = static_cast<const __nv_bfloat16*>(p.y);
  for (int64_t i = 0; i < p.rows; ++i)
    for (int64_t j = 0; j < p.m; ++j) {
      double dot = 0;
      for (int64_t k = 0; k < p.d; ++k) dot += double(__bfloat162float(x[i * p.ldx + k])) * __bfloat162float(y[j * p.ldy + k]);
      double w = p.x_factor[i] * std::exp2(dot * p.c[i] - p.x_shift[i]);
      if (p.y_factor != nullptr) w += p.y_factor[j] * std::exp2(dot * p.c[i] - p.y_shift[j]);
      static_cast<__nv_bfloat16*>(p.out)[i * p.pitch + j] = __float2bfloat16(static_cast<float>(w));
    }
}

void pairwise_chained_sm90a(const PairwiseProblem&, const BlockBound*, const BlockBound*, const HopperChained&) {
  throw CudaError("pairwise_chained_sm90a is not emulated");
}

}  // namespace sslspec::cuda

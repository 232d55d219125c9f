// Host stand-ins: for csrc/cuda/pairwise_weights_sm90a.cu and pairwise_statistics_sm90a.cu the same numbers without
// CUTLASS; the chained kernel of Hopper is not emulated, and only asked for by an environment variable.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/check.h"
#include "cuda/pairwise.cuh"
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

void pairwise_statistics_sm90a(const PairwiseProblem& problem, const BlockBound* x_bounds, const BlockBound* y_bounds,
                               const HopperStatistics& out) {
  constexpr int64_t kTile = 128;
  const Pairs p = pairs_of(problem, x_bounds, y_bounds);
  const int64_t n = p.x.count, m = p.y.count, d = p.x.bytes / 2;
  float x = 0, y = 0;
  for (int64_t b = 0; b * kBoundRows < n; ++b) x = std::max(x, p.scale_row ? x_bounds[b].scaled_norm : x_bounds[b].norm);
  for (int64_t b = 0; b * kBoundRows < m; ++b) y = std::max(y, y_bounds[b].norm);
  const float limit = (p.scale_row ? x * y : x * y * std::fabs(*p.scale)) * kLog2e;
  if (!is_narrow(limit)) return;
  if (out.column_sums != nullptr) std::fill_n(out.column_sums, ceil_div(out.rows, kTile) * m, 0.0f);
  std::fill_n(out.row_sums, ceil_div(m, kTile) * out.rows, 0.0f);
  std::vector<uint32_t> bits(kTile * kTile / 32);
  for (int64_t i0 = out.row0; i0 < out.row0 + out.rows; i0 += kTile)
    for (int64_t j0 = 0; j0 < m; j0 += kTile) {
      mask_words<kTile, kTile>(p, i0, j0, bits.data(), 0, 1);
      for (int64_t at = 0; at < kTile * kTile; ++at) {
        if (bits[at / 32] >> at % 32 & 1) continue;
        const int64_t i = i0 + at / kTile, j = j0 + at % kTile;
        const auto* left = reinterpret_cast<const __nv_bfloat16*>(p.x.data + i * p.x.pitch);
        const auto* right = reinterpret_cast<const __nv_bfloat16*>(p.y.data + j * p.y.pitch);
        double dot = 0;
        for (int64_t k = 0; k < d; ++k) dot += double(__bfloat162float(left[k])) * __bfloat162float(right[k]);
        const float value = static_cast<float>(std::exp2(dot * p.scale[i * p.scale_row] * kLog2e - narrow_shift(limit)));
        out.row_sums[j0 / kTile * out.rows + i - out.row0] += value;
        if (out.column_sums != nullptr) out.column_sums[(i0 - out.row0) / kTile * m + j] += value;
      }
    }
}

void pairwise_chained_sm90a(const PairwiseProblem&, const BlockBound*, const BlockBound*, const HopperChained&) {
  throw CudaError("pairwise_chained_sm90a is not emulated");
}

}  // namespace sslspec::cuda

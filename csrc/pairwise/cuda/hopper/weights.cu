// Weights of wide rows on Hopper: what weights_sm90a.cu reads, before it, and the pairs that are left out, after it.
// Plain CUDA, so that the emulator runs it too.
#include "pairwise/cuda/hopper/hopper.h"
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {
namespace {

struct Vectors {
  float *kind, *c, *x_factor, *x_shift, *y_factor, *y_shift;
};

// The weights as separate arrays and the row scales in powers of two, for the Hopper pass.
__global__ void __launch_bounds__(TileTraits::kThreads)
    vectors_kernel(const __grid_constant__ Pairs p, const float* bias, const Weight* x_weights, const Weight* y_weights,
                   Vectors out) {
  __shared__ float slots[TileTraits::kWarps];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * TileTraits::kThreads + threadIdx.x;
  if (blockIdx.x == 0) {
    const bool one = y_weights == nullptr || common_shift<TileTraits::kWarps>(p, slots).serves();
    if (threadIdx.x == 0) *out.kind = bias != nullptr ? kSigmoid : one ? kOneExponential : kTwoExponentials;
  }
  if (i < p.x.count) {
    out.c[i] = p.scale[i * p.scale_row] * kLog2e, out.x_factor[i] = x_weights[i].factor;
    out.x_shift[i] = bias != nullptr ? -*bias * kLog2e : x_weights[i].shift;
  }
  if (i < p.y.count && y_weights != nullptr) out.y_factor[i] = y_weights[i].factor, out.y_shift[i] = y_weights[i].shift;
}

// Sets the weights of left-out pairs to 0: a block visits kClearSpan tiles, most of which hold none.
constexpr int kClearSpan = 32;
__global__ void __launch_bounds__(TileTraits::kThreads)
    clear_kernel(const __grid_constant__ Pairs p, __nv_bfloat16* weights, int64_t pitch, int64_t row0) {
  constexpr int kTile = TileTraits::kRows;
  __shared__ uint32_t mask[kTile * kTile / 32];
  __shared__ bool masked[kClearSpan];
  const int64_t local = static_cast<int64_t>(blockIdx.y) * kTile, i0 = row0 + local;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kClearSpan * kTile;
  if (threadIdx.x < kClearSpan) {
    const int64_t j0 = first + static_cast<int64_t>(threadIdx.x) * kTile;
    masked[threadIdx.x] = j0 < p.y.count && tile_is_masked(p, i0, kTile, j0, kTile);
  }
  __syncthreads();
  for (int tile = 0; tile < kClearSpan; ++tile) {
    if (!masked[tile]) continue;
    const int64_t j0 = first + static_cast<int64_t>(tile) * kTile;
    fill_mask<kTile, kTile>(p, i0, j0, mask);
    __syncthreads();
    for (int at = threadIdx.x; at < kTile * kTile / 32; at += TileTraits::kThreads) {
      const int r = at * 32 / kTile, c = at * 32 % kTile;
      for (int k = 0; k < 32; ++k) {
        const bool inside = i0 + r < p.x.count && j0 + c + k < p.y.count;
        if (inside && mask[at] >> k & 1) weights[(local + r) * pitch + j0 + c + k] = __float2bfloat16(0.0f);
      }
    }
    __syncthreads();
  }
}

}  // namespace

void hopper_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w) {
  const DeviceGuard guard(p.device);
  const Pairs pairs = pairs_of(p);
  const int64_t n = p.x.shape[0], m = p.y.shape[0];
  const int64_t x_step = (n + 3) / 4 * 4, y_step = (m + 3) / 4 * 4;  // pairwise_vectors_size
  float* arrays = b.vectors + 4;
  const Vectors v = {
      b.vectors, arrays, arrays + x_step, arrays + 2 * x_step, arrays + 3 * x_step, arrays + 3 * x_step + y_step};
  const int64_t length = n > m ? n : m;
  if (w.row0 == 0)
    launch("pairwise_vectors", vectors_kernel, dim3(static_cast<unsigned>(ceil_div(length, TileTraits::kThreads))),
           TileTraits::kThreads, 0, p.stream, pairs, static_cast<const float*>(p.bias), b.x_weights, b.y_weights, v);
  const bool columns = b.y_weights != nullptr;
  pairwise_weights_sm90a({static_cast<const unsigned char*>(p.x.data) + w.row0 * pairs.x.pitch, p.y.data, p.x.stride[0],
                          p.y.stride[0], static_cast<int>(w.rows), static_cast<int>(m), static_cast<int>(p.x.shape[1]),
                          v.c + w.row0, v.x_factor + w.row0, v.x_shift + w.row0, columns ? v.y_factor : nullptr,
                          columns ? v.y_shift : nullptr, v.kind, w.data, w.pitch, p.device, p.stream});
  launch("pairwise_clear", clear_kernel,
         dim3(static_cast<unsigned>(ceil_div(m, kClearSpan * TileTraits::kRows)),
              static_cast<unsigned>(ceil_div(w.rows, TileTraits::kRows))),
         TileTraits::kThreads, 0, p.stream, pairs, static_cast<__nv_bfloat16*>(w.data), w.pitch, w.row0);
}

}  // namespace sslspec::cuda

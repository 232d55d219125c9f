// Value and weights of the sigmoid loss in one visit of the pairs: rows row0 .. of W as a matrix for library GEMMs, and
// sums over the pairs. Pair (i, i) is a positive, the others are negatives.
//
// Tiling: as weights_sm80.cu, a block of 256 threads per kSpan tiles of 128 x 128 in a row of tiles. The diagonal is
// where a tile's first row is its first column; the mask concerns rows and columns beyond the last. Sums: fp32 over the
// 64 kSpan pairs of a thread and over a warp; one thread per slot, so that no atomics are needed.
#include "pairwise/cuda/portable.h"
#include "pairwise/cuda/sigmoid.cuh"
#include "pairwise/cuda/weights.cuh"

namespace sslspec::cuda {
namespace {

struct SigmoidShared {
  float row_factor[TileTraits::kRows];
};

struct SigmoidArgs {
  Rows x, y;
  const float *scale, *bias, *row_factor;
  float number, offset;
  SigmoidSums* sums;  // [row tiles, column tiles, kSigmoidSlots]
  MatrixOut out;
};

template <typename Traits>
__global__ void __launch_bounds__(TileTraits::kThreads, Traits::kBlocks)
    sigmoid_kernel(const __grid_constant__ SigmoidArgs p) {
  constexpr int kTile = TileTraits::kRows;
  const MatrixBlock<SigmoidShared> block(p.out, p.x, p.y.count, Traits::kSpan);
  SigmoidShared& s = block.shared;
  const int64_t i0 = block.i0, first = block.first, last = block.last, columns = ceil_div(p.y.count, kTile);
  const float scale = number_or(p.scale, p.number), bias = number_or(p.bias, p.offset);
  if (threadIdx.x < kTile) {
    const int64_t i = min(i0 + threadIdx.x, p.x.count - 1);
    s.row_factor[threadIdx.x] = p.row_factor == nullptr ? 1.0f : p.row_factor[i];
  }
  SigmoidTotals totals;
  block.pipe.template run<typename Traits::Math>(
      p.x, i0, p.y, first * kTile, static_cast<int>(last - first), [&](int tile, float (&acc)[4][4][4]) {
        const int64_t j0 = (first + tile) * kTile;
        const bool diagonal = i0 == j0;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int c = TilePipe::column_of(n, 0);
          const int64_t j = j0 + c;
#pragma unroll
          for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              const int r = TilePipe::row_of(m, h);
              const float factor = s.row_factor[r];
              const int64_t i = i0 + r;
              if (i >= p.x.count || j >= p.y.count) continue;
              float value[2] = {0, 0};
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                if (j + e >= p.y.count) break;
                const float dot = acc[m][n][2 * h + e], logit = fmaf(dot, scale, bias);
                const SigmoidPair pair = diagonal && r == c + e ? positive_pair(logit) : negative_pair(logit);
                value[e] = factor * pair.weight;
                totals.add(pair, factor, dot);
              }
              block.template store<Traits>(p.out, i - p.out.row0, j, p.y.count, value);
            }
        }
      });
  // the warps of the block add up in order: slots hold those of four warps, and none for further tiles of the strip
  __shared__ SigmoidSums warps[TileTraits::kWarps];
  store_totals(totals, warps + threadIdx.x / 32);
  __syncthreads();
  const int64_t slots = (last - first) * kSigmoidSlots;
  SigmoidSums* out = p.sums + (static_cast<int64_t>(blockIdx.y) * columns + first) * kSigmoidSlots;
  for (int64_t k = threadIdx.x; k < slots; k += TileTraits::kThreads) {
    SigmoidSums sums = {0, 0, 0};
    for (int64_t w = k; w < TileTraits::kWarps && k < kSigmoidSlots; w += kSigmoidSlots)
      sums.value += warps[w].value, sums.weight += warps[w].weight, sums.product += warps[w].product;
    out[k] = sums;
  }
}

}  // namespace

void portable_sigmoid(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums) {
  const DeviceGuard guard(p.device);
  const Rows x = rows_of(p.x), y = rows_of(p.y);
  constexpr size_t kOther = sizeof(SigmoidShared) + TileTraits::kWarps * sizeof(SigmoidSums);
  const SigmoidArgs args = {x, y, p.scale, p.bias, p.row_factor, p.number, p.offset, sums, MatrixOut(w, x, kOther)};
  with_weights_traits(p.x.dtype, p.precision, w.pieces, [&](auto traits) {
    using Traits = decltype(traits);
    launch_matrix<SigmoidShared>("pairwise_sigmoid", sigmoid_kernel<Traits>, {w.rows, y.count, Traits::kSpan}, args.out,
                                 x, p.stream, args);
  });
}

}  // namespace sslspec::cuda

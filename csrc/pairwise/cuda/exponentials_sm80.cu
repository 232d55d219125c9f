// Exponentials of rows row0 .. as a matrix for library GEMMs, and their row sums, in one visit of the pairs
// (exponentials.cuh), on every GPU; and the visits of the rows that need their own shift, which all GPUs take.
//
// Tiling: as weights_sm80.cu, a block of 256 threads per span of tiles of 128 x 128 in a row of tiles. Row sums stay in
// registers over the span and go to its first slot. Blocks of tiles that need no second visit return at once.
// Memory traffic: one write of the matrix, the operands from L2. Precision policy: fp32 exponentials and sums in a fixed
// order, added up before the matrix is rounded.
#include "pairwise/cuda/exponentials.cuh"
#include "pairwise/cuda/portable.h"
#include "pairwise/cuda/row_quarters.cuh"
#include "pairwise/cuda/weights.cuh"

namespace sslspec::cuda {
namespace {

enum Visit { kFirst, kTops, kAgain };

struct ExponentialsShared {
  uint32_t mask[TileTraits::kRows * TileTraits::kRows / 32];
  float row_scale[TileTraits::kRows], row_shift[TileTraits::kRows];
  RowQuarters<float> quarters;
  float slots[TileTraits::kWarps];
};

struct ExponentialsArgs {
  Exponentials to;
  MatrixOut out;
  int64_t span;
};

// Must a row of the tile be visited again? By all threads of the block.
__device__ __forceinline__ bool has_small_sum(const Pairs& p, const ExponentialsArgs& args, int64_t row, float* slots) {
  const Exponentials& from = args.to;
  const float least = static_cast<float>(p.y.count) * exp2_fast(kLeast);
  float found = 0;
  for (int r = threadIdx.x / 32; r < TileTraits::kRows && args.out.row0 + row + r < p.x.count;
       r += TileTraits::kWarps) {
    float sum = 0;
    for (int64_t k = threadIdx.x % 32; k < from.slots; k += 32) sum += from.sums[(row + r) * from.slots + k];
    if (warp_sum(sum) < least) found = 1;  // not NaN, which stays
  }
  return block_max<TileTraits::kWarps>(found, slots) > 0;
}

template <typename Traits, Visit kVisit>
__global__ void __launch_bounds__(TileTraits::kThreads, Traits::kBlocks)
    exponentials_kernel(const __grid_constant__ Pairs p, const __grid_constant__ ExponentialsArgs args) {
  constexpr int kTile = TileTraits::kRows;
  const MatrixBlock<ExponentialsShared> block(args.out, p.x, p.y.count, args.span);
  ExponentialsShared& s = block.shared;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, i0 = block.i0, first = block.first, last = block.last;
  if constexpr (kVisit == kTops) {
    const bool again = has_small_sum(p, args, row, s.slots);
    if (blockIdx.x == 0 && threadIdx.x == 0) args.to.redone[blockIdx.y] = again;
    if (!again) return;
  }
  if (kVisit == kAgain && !args.to.redone[blockIdx.y]) return;

  if (threadIdx.x < kTile) {
    const int64_t i = min(i0 + threadIdx.x, p.x.count - 1);
    s.row_scale[threadIdx.x] = p.scale[i * p.scale_row] * kLog2e;
    s.row_shift[threadIdx.x] = kVisit == kAgain ? args.to.top(i - args.out.row0) : *args.to.shift;
  }
  float found[4][2];
#pragma unroll
  for (int k = 0; k < 8; ++k) found[k / 2][k % 2] = kVisit == kTops ? negative_infinity() : 0.0f;
  block.pipe.template run<typename Traits::Math>(
      p.x, i0, p.y, first * kTile, static_cast<int>(last - first), [&](int tile, float (&acc)[4][4][4]) {
        const int64_t j0 = (first + tile) * kTile;
        const bool masked = tile_is_masked(p, i0, kTile, j0, kTile);
        if (masked) {
          __syncthreads();
          fill_mask<kTile, kTile>(p, i0, j0, s.mask);
          __syncthreads();
        }
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int r = TilePipe::row_of(m, h);
            const float scale = s.row_scale[r], shift = s.row_shift[r];
            const uint32_t word = masked ? s.mask[r * 4 + threadIdx.x / 32 % 4] >> threadIdx.x % 4 * 2 : 0u;
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              float value[2];
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                const bool left_out = word >> (n * 8 + e) & 1;
                if constexpr (kVisit == kTops) {
                  found[m][h] = fmaxf(found[m][h], left_out ? negative_infinity() : acc[m][n][2 * h + e] * scale);
                } else {
                  value[e] = left_out ? 0.0f : exp2_fast(fmaf(acc[m][n][2 * h + e], scale, -shift));
                  found[m][h] += value[e];
                }
              }
              const int64_t j = j0 + TilePipe::column_of(n, 0);
              if (kVisit != kTops && i0 + r < p.x.count && j < p.y.count)
                block.template store<Traits>(args.out, row + r, j, p.y.count, value);
            }
          }
      });

  store_quarters(s.quarters,
                 [&](int m, int h) { return kVisit == kTops ? quad_max(found[m][h]) : quad_sum(found[m][h]); });
  __syncthreads();
  if (threadIdx.x >= kTile) return;
  const float total = over_quarters(s.quarters, kVisit == kTops ? negative_infinity() : 0.0f,
                                    [](float a, float b) { return kVisit == kTops ? fmaxf(a, b) : a + b; });
  const int64_t i = row + threadIdx.x;
  if (kVisit == kFirst) {
    for (int64_t k = first; k < last; ++k) args.to.sums[i * args.to.slots + k] = k == first ? total : 0.0f;
    return;
  }
  (kVisit == kTops ? args.to.tops : args.to.more)[i * args.to.redone_slots + blockIdx.x] = total;
}

// The shift of all rows.
__global__ void __launch_bounds__(TileTraits::kThreads) shift_kernel(const __grid_constant__ Pairs p, float* shift) {
  __shared__ float slots[TileTraits::kWarps];
  const float limit = logit_limit<TileTraits::kWarps>(p, slots);
  if (threadIdx.x == 0) *shift = one_sided_shift(limit);
}

void visits(const PairwiseProblem& p, const WeightRows& w, float* workspace, bool first) {
  with_weights_traits(p.x.dtype, p.precision, w.pieces, [&](auto traits) {
    using Traits = decltype(traits);
    const Pairs pairs = pairs_of(p);
    const Exponentials to(workspace, w.rows, pairs.y.count);
    const auto visit = [&](const char* name, auto kernel, int64_t span) {
      const ExponentialsArgs args = {to, MatrixOut(w, pairs.x, sizeof(ExponentialsShared)), span};
      launch_matrix<ExponentialsShared>(name, kernel, {w.rows, pairs.y.count, span}, args.out, pairs.x, p.stream, pairs,
                                        args);
    };
    if (first) return visit("pairwise_exponentials", exponentials_kernel<Traits, kFirst>, Traits::kSpan);
    visit("pairwise_exponentials_tops", exponentials_kernel<Traits, kTops>, kRedoneSpan);
    visit("pairwise_exponentials_again", exponentials_kernel<Traits, kAgain>, kRedoneSpan);
  });
}

}  // namespace

int64_t pairwise_exponentials_size(int64_t rows, int64_t m) { return Exponentials(nullptr, rows, m).size; }

void exponentials_shift(const PairwiseProblem& p, float* workspace) {
  launch("pairwise_shift", shift_kernel, dim3(1), TileTraits::kThreads, 0, p.stream, pairs_of(p), workspace);
}

void portable_exponentials(const PairwiseProblem& p, const WeightRows& w, float* workspace) {
  visits(p, w, workspace, true);
}

void exponentials_again(const PairwiseProblem& p, const WeightRows& w, float* workspace) {
  visits(p, w, workspace, false);
}

}  // namespace sslspec::cuda

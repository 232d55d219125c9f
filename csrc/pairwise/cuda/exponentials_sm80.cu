// Exponentials of rows row0 .. as a matrix for library GEMMs, and their row sums, in one visit of the pairs
// (exponentials.cuh), on every GPU; and the visits of the rows that need their own shift, which all GPUs take.
//
// Tiling: as weights_sm80.cu, a block of 256 threads per span of tiles of 128 x 128 in a row of tiles. Row sums stay in
// registers over the span and go to its first slot. Blocks of tiles that need no second visit return at once.
// Memory traffic: one write of the matrix, the operands from L2. Precision policy: fp32 exponentials and sums in a fixed
// order, added up before the matrix is rounded.
#include "pairwise/cuda/exponentials.cuh"
#include "pairwise/cuda/portable.h"
#include "pairwise/cuda/weights.cuh"

namespace sslspec::cuda {
namespace {

enum Visit { kFirst, kTops, kAgain };

struct ExponentialsShared {
  uint32_t mask[TileTraits::kRows * TileTraits::kRows / 32];
  float row_scale[TileTraits::kRows], row_shift[TileTraits::kRows];
  float quarter[4][TileTraits::kRows];
  float slots[TileTraits::kWarps];
};

struct ExponentialsArgs {
  Exponentials to;
  void* data;  // [rows, m] per piece
  int64_t pitch, piece_step, row0, span;
  bool resident;  // TilePipe::keeps_x
};

// Must a row of the tile be visited again? By all threads of the block.
__device__ __forceinline__ bool has_small_sum(const Pairs& p, const ExponentialsArgs& args, int64_t row, float* slots) {
  const Exponentials& from = args.to;
  const float least = static_cast<float>(p.y.count) * exp2_fast(kLeast);
  float found = 0;
  for (int r = threadIdx.x / 32; r < TileTraits::kRows && args.row0 + row + r < p.x.count; r += TileTraits::kWarps) {
    float sum = 0;
    for (int64_t k = threadIdx.x % 32; k < from.slots; k += 32) sum += from.sums[(row + r) * from.slots + k];
    if (warp_sum(sum) < least) found = 1;  // not NaN, which stays
  }
  return block_max<TileTraits::kWarps>(found, slots) > 0;
}

template <typename Traits, Visit kVisit>
__global__ void __launch_bounds__(TileTraits::kThreads, Traits::kBlocks)
    exponentials_kernel(const __grid_constant__ Pairs p, const __grid_constant__ ExponentialsArgs out) {
  constexpr int kTile = TileTraits::kRows;
  using Elem = typename Traits::Elem;
  unsigned char* shared = dynamic_shared();
  const TilePipe pipe(shared, p.x.bytes, out.resident);
  auto& s = *reinterpret_cast<ExponentialsShared*>(shared + TilePipe::shared_bytes(p.x.bytes, out.resident));
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, i0 = out.row0 + row;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * out.span;
  const int64_t last = min(first + out.span, ceil_div(p.y.count, kTile));
  const bool aligned = out.pitch % 2 == 0;
  if constexpr (kVisit == kTops) {
    const bool again = has_small_sum(p, out, row, s.slots);
    if (blockIdx.x == 0 && threadIdx.x == 0) out.to.redone[blockIdx.y] = again;
    if (!again) return;
  }
  if (kVisit == kAgain && !out.to.redone[blockIdx.y]) return;

  if (threadIdx.x < kTile) {
    const int64_t i = min(i0 + threadIdx.x, p.x.count - 1);
    s.row_scale[threadIdx.x] = p.scale[i * p.scale_row] * kLog2e;
    s.row_shift[threadIdx.x] = kVisit == kAgain ? out.to.top(i - out.row0) : *out.to.shift;
  }
  float found[4][2];
#pragma unroll
  for (int k = 0; k < 8; ++k) found[k / 2][k % 2] = kVisit == kTops ? negative_infinity() : 0.0f;
  pipe.run<typename Traits::Math>(
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
                store_pieces<Traits>(static_cast<Elem*>(out.data) + (row + r) * out.pitch + j, out.piece_step, value[0],
                                     value[1], j + 1 < p.y.count, aligned);
            }
          }
      });

#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float total = kVisit == kTops ? quad_max(found[m][h]) : quad_sum(found[m][h]);
      if (threadIdx.x % 4 == 0) s.quarter[threadIdx.x / 32 % 4][TilePipe::row_of(m, h)] = total;
    }
  __syncthreads();
  if (threadIdx.x >= kTile) return;
  float total = s.quarter[0][threadIdx.x];
#pragma unroll
  for (int q = 1; q < 4; ++q) {
    const float part = s.quarter[q][threadIdx.x];
    total = kVisit == kTops ? fmaxf(total, part) : total + part;
  }
  const int64_t i = row + threadIdx.x;
  if (kVisit == kFirst) {
    for (int64_t k = first; k < last; ++k) out.to.sums[i * out.to.slots + k] = k == first ? total : 0.0f;
    return;
  }
  (kVisit == kTops ? out.to.tops : out.to.more)[i * out.to.redone_slots + blockIdx.x] = total;
}

// The shift of all rows.
__global__ void __launch_bounds__(TileTraits::kThreads) shift_kernel(const __grid_constant__ Pairs p, float* shift) {
  __shared__ float slots[TileTraits::kWarps];
  const float limit = logit_limit<TileTraits::kWarps>(p, slots);
  if (threadIdx.x == 0) *shift = one_sided_shift(limit);
}

template <typename Math, int kPieces>
void launch_visits(const PairwiseProblem& p, const WeightRows& w, float* workspace, bool first) {
  using Traits = WeightsTraits<Math, kPieces>;
  const Pairs pairs = pairs_of(p);
  const bool resident = TilePipe::keeps_x(pairs.x.bytes, sizeof(ExponentialsShared), shared_limit());
  ExponentialsArgs args = {Exponentials(workspace, w.rows, pairs.y.count),
                           w.data,
                           w.pitch,
                           w.rows * w.pitch,
                           w.row0,
                           Traits::kSpan,
                           resident};
  const auto visit = [&](const char* name, auto kernel) {
    const dim3 grid(static_cast<unsigned>(ceil_div(args.to.slots, args.span)),
                    static_cast<unsigned>(ceil_div(w.rows, TileTraits::kRows)));
    launch(name, kernel, grid, TileTraits::kThreads,
           TilePipe::shared_bytes(pairs.x.bytes, resident) + sizeof(ExponentialsShared), p.stream, pairs, args);
  };
  if (first) return visit("pairwise_exponentials", exponentials_kernel<Traits, kFirst>);
  args.span = kRedoneSpan;
  visit("pairwise_exponentials_tops", exponentials_kernel<Traits, kTops>);
  visit("pairwise_exponentials_again", exponentials_kernel<Traits, kAgain>);
}

void visits(const PairwiseProblem& p, const WeightRows& w, float* workspace, bool first) {
  const bool fast = p.precision == Precision::fast;
  const auto run = p.x.dtype == DType::bf16 ? launch_visits<Bf16, 1>
                   : w.pieces == 1          ? (fast ? launch_visits<Tf32, 1> : launch_visits<Tf32x3, 1>)
                   : fast                   ? launch_visits<Tf32, kWeightPieces>
                                            : launch_visits<Tf32x3, kWeightPieces>;
  run(p, w, workspace, first);
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

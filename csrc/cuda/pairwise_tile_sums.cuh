// The epilogue of the Hopper statistics pass (pairwise_statistics_sm90a.cu): sums of the exponentials over the rows and
// columns of a tile of 128 x 128, whose products a warpgroup holds as wgmma leaves them. Plain CUDA, so that the emulator
// runs it too.
//
// Accumulator: element e + 2 h + 4 n + 64 m of a thread is row 64 m + 16 warp + lane / 4 + 8 h, column 8 n + 2 (lane % 4) + e.
// A warp holds whole rows, so that a quad of lanes finishes a row; the columns of the four warps meet in shared memory.
#pragma once
#include "cuda/pairwise.cuh"
#include "cuda/pairwise_sm90a.h"

namespace sslspec::cuda {

struct TileSumsTraits {
  static constexpr int kTile = 128, kThreads = 128, kWarps = kThreads / 32;
  static_assert(kTile == kBoundRows);
};

struct TileSumsShared {
  uint32_t mask[TileSumsTraits::kTile * TileSumsTraits::kTile / 32];
  float column[TileSumsTraits::kWarps][TileSumsTraits::kTile];  // by warp, each of which owns rows of its own
  float slots[12], limit;                                       // limit: logit_limit, which the kernel writes first
};

// i0, j0: where the tile begins; local: i0 - out.row0.
template <bool kMasked, typename Accumulator>
__device__ __forceinline__ void add_tile(const Pairs& p, const HopperStatistics& out, int64_t i0, int64_t j0, int local,
                                         const Accumulator& acc, TileSumsShared& s, int thread) {
  constexpr int kTile = TileSumsTraits::kTile;
  const int lane = thread % 32, warp = thread / 32, first_row = warp * 16 + lane / 4;
  const float shift = narrow_shift(s.limit);
  float scale[2][2], total[2][2] = {};
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      scale[m][h] = kLog2e * p.scale[min(i0 + 64 * m + 8 * h + first_row, p.x.count - 1) * p.scale_row];
#pragma unroll
  for (int n = 0; n < kTile / 8; ++n) {
    float column[2] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = 64 * m + 8 * h + first_row;
        const uint32_t word = kMasked ? s.mask[row * (kTile / 32) + n / 4] >> (n % 4 * 8 + lane % 4 * 2) : 0u;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float value = exp2_fast(fmaf(acc(e + 2 * h + 4 * n + 64 * m), scale[m][h], -shift));
          const float kept = word >> e & 1 ? 0.0f : value;
          total[m][h] += kept, column[e] += kept;
        }
      }
    if (out.column_sums == nullptr) continue;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float sum = column_sum(column[e]);
      if (lane < 4) s.column[warp][8 * n + 2 * lane + e] = sum;
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = 64 * m + 8 * h + first_row;
      const float sum = quad_sum(total[m][h]);
      if (lane % 4 == 0 && local + row < out.rows) out.row_sums[j0 / kTile * out.rows + local + row] = sum;
    }
}

// Tile (ti, tj) of the chunk, by the 128 threads that share `barrier`; a cluster may reach beyond the problem. Nobody may
// touch s before all of them have returned.
template <typename Accumulator, typename Barrier>
__device__ __forceinline__ void store_tile_sums(const Pairs& p, const HopperStatistics& out, int ti, int tj,
                                                const Accumulator& acc, TileSumsShared& s, int thread, const Barrier& barrier) {
  constexpr int kTile = TileSumsTraits::kTile;
  const int local = ti * kTile;
  const int64_t i0 = out.row0 + local, j0 = static_cast<int64_t>(tj) * kTile;
  if (local >= out.rows || j0 >= p.y.count) return;
  if (tile_is_masked(p, i0, kTile, j0, kTile)) {
    mask_words<kTile, kTile>(p, i0, j0, s.mask, thread, TileSumsTraits::kThreads);
    barrier();
    add_tile<true>(p, out, i0, j0, local, acc, s, thread);
  } else {
    add_tile<false>(p, out, i0, j0, local, acc, s, thread);
  }
  if (out.column_sums == nullptr) return;
  barrier();
  if (j0 + thread >= p.y.count) return;
  float total = 0;
#pragma unroll
  for (int warp = 0; warp < TileSumsTraits::kWarps; ++warp) total += s.column[warp][thread];
  out.column_sums[ti * p.y.count + j0 + thread] = total;
}

}  // namespace sslspec::cuda

// Sums over the rows and columns of a tile of the statistics, whose products a warpgroup holds as wgmma leaves them:
// 128 x 128 in the CUTLASS pass over wide rows (statistics_sm90a.cu), 64 x 128 in sums_sm90a.cu.
// Plain CUDA, so that the emulator runs it too.
//
// Softmax: sums of 2^(s log2(e) - top). At a narrow range of all logits (pairs.cuh) top is one constant. Otherwise
// each warp finds the range of the logits of its own rows of the tile: where they lie within 2^kNarrowPart of each other, which
// they nearly always do, their largest is the top of its rows and columns and one exponential serves both; where not,
// every row and every column has its own. Sigmoid: sums of softplus over rows, with top 0.
//
// Accumulator: element e + 2 h + 4 n + 64 m of a thread is row 64 m + 16 warp + lane / 4 + 8 h, column 8 n + 2 (lane %
// 4) + e. A warp holds whole rows, so that a quad of lanes finishes a row; the columns of the four warps meet in shared
// memory.
#pragma once
#include "pairwise/cuda/pairs.cuh"
#include "pairwise/cuda/hopper/hopper.h"

namespace sslspec::cuda {

struct TileSumsTraits {
  static constexpr int kTile = 128, kThreads = 128, kWarps = kThreads / 32;
  static_assert(kTile == kBoundRows);
};

struct TileSumsShared {
  uint32_t mask[TileSumsTraits::kTile * TileSumsTraits::kTile / 32];
  Partial column[TileSumsTraits::kWarps][TileSumsTraits::kTile];  // by warp, each of which owns rows of its own
  float slots[12];
  CommonShift shift;  // which the kernel writes first
};

inline constexpr float kNarrowPart = 120.0f;  // in powers of two: the smallest term is a normal number

// A thread's logits in the order of the accumulator, 64 for each m: in powers of two (softmax) or natural ones
// (sigmoid); -inf is left out. Everything below is the same code for every tile: copies for masked tiles and the like
// would not fit the instruction cache, and branches per element would leave one exponential in flight at a time.
template <int kSize, typename Accumulator>
__device__ __forceinline__ void scaled(const Accumulator& acc, const float (&scale)[kSize / 64][2], float added,
                                       float (&x)[kSize]) {
#pragma unroll
  for (int at = 0; at < kSize; ++at) x[at] = fmaf(acc(at), scale[at / 64][at / 2 % 2], added);
}

template <int kSize>
__device__ __forceinline__ void leave_out(const uint32_t* mask, int first_row, float (&x)[kSize]) {
#pragma unroll
  for (int at = 0; at < kSize; ++at) {
    const int row = first_row + at / 64 * 64 + at / 2 % 2 * 8, n = at % 64 / 4;
    const uint32_t word = mask[row * (TileSumsTraits::kTile / 32) + n / 4] >> (n % 4 * 8 + threadIdx.x % 4 * 2);
    if (word >> at % 2 & 1) x[at] = negative_infinity();
  }
}

// Smallest and largest logit that the warp keeps; (inf, -inf) without any. NaN is passed over, and shows in the sums.
template <int kSize>
__device__ __forceinline__ float2 logit_range(const float (&x)[kSize]) {
  const float none = negative_infinity();
  float low[4] = {-none, -none, -none, -none}, high[4] = {none, none, none, none};
#pragma unroll
  for (int at = 0; at < kSize; ++at) {
    low[at % 4] = fminf(low[at % 4], x[at] == none ? -none : x[at]);
    high[at % 4] = fmaxf(high[at % 4], x[at]);
  }
  float2 range = {fminf(fminf(low[0], low[1]), fminf(low[2], low[3])),
                  fmaxf(fmaxf(high[0], high[1]), fmaxf(high[2], high[3]))};
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    range.x = fminf(range.x, __shfl_xor_sync(0xffffffffu, range.x, step));
    range.y = fmaxf(range.y, __shfl_xor_sync(0xffffffffu, range.y, step));
  }
  return range;
}

// Lanes that differ in bit kHalf exchange the half of their first 2 kHalf values that the other keeps. A template and
// not a loop over kHalf, whose indices would put the values in local memory.
template <int kHalf>
__device__ __forceinline__ void exchange_half(float (&sum)[32]) {
  const bool upper = threadIdx.x & kHalf;
#pragma unroll
  for (int k = 0; k < kHalf; ++k) {
    const float give = upper ? sum[k] : sum[k + kHalf], keep = upper ? sum[k + kHalf] : sum[k];
    sum[k] = keep + __shfl_xor_sync(0xffffffffu, give, kHalf);
  }
}

// Adds up over the eight lanes that share a column, in 28 shuffles where a sum of every value would take 96. Value k of
// a thread is column 8 (k / 2) + 2 (lane % 4) + k % 2; afterwards values 0 .. 3 are the sums of k = 4 (lane / 4) + 0
// .. 3.
__device__ __forceinline__ void scatter_column_sums(float (&sum)[32]) {
  exchange_half<16>(sum);
  exchange_half<8>(sum);
  exchange_half<4>(sum);
}

// A part without any pair has the top -inf and the sum 0.
__device__ __forceinline__ float finite_top(float top) { return top == negative_infinity() ? 0.0f : top; }
__device__ __forceinline__ float part_exp2(float x, float top) { return exp2_fast(x - finite_top(top)); }

// {top, sum} with the sum in [1, 2): a row or column whose logits are far below the warp's top must not take that top
// into a merge, where what other tiles add would vanish beside it.
__device__ __forceinline__ Partial normalized(float top, float sum) {
  const uint32_t bits = __float_as_uint(sum), exponent = bits >> 23;
  if (sum == 0.0f) return {negative_infinity(), 0.0f};
  if (exponent >= 255u) return {top, sum};  // inf, NaN
  return {top + static_cast<float>(static_cast<int>(exponent) - 127),
          __uint_as_float((bits & 0x007fffffu) | 0x3f800000u)};
}

// narrow: one top for all tiles, whose sums can be added as they are.
template <int kSize>
__device__ __forceinline__ void sums_of_one_top(const float (&x)[kSize], float top, bool narrow, bool with_columns,
                                                Partial (&rows)[kSize / 64][2], Partial* column) {
  const auto part = [&](float sum) { return narrow ? Partial{top, sum} : normalized(top, sum); };
  const float base = finite_top(top);
  float total[kSize / 64][2] = {}, columns[32] = {};
#pragma unroll
  for (int at = 0; at < kSize; ++at) {
    const float value = exp2_fast(x[at] - base);
    total[at / 64][at / 2 % 2] += value, columns[at % 64 / 4 * 2 + at % 2] += value;
  }
#pragma unroll
  for (int k = 0; k < kSize / 32; ++k) rows[k / 2][k % 2] = part(quad_sum(total[k / 2][k % 2]));
  if (!with_columns) return;
  scatter_column_sums(columns);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < 4; ++k) column[8 * (lane / 4 * 2 + k / 2) + lane % 4 * 2 + k % 2] = part(columns[k]);
}

template <int kSize>
__device__ __forceinline__ void sums_of_own_tops(const float (&x)[kSize], Partial (&rows)[kSize / 64][2],
                                                 Partial* column) {
  const float none = negative_infinity();
#pragma unroll
  for (int k = 0; k < kSize / 32; ++k) {
    float top = none, total = 0;
#pragma unroll
    for (int n = 0; n < 32; ++n) top = fmaxf(top, x[k / 2 * 64 + n / 2 * 4 + k % 2 * 2 + n % 2]);
    top = quad_max(top);
#pragma unroll
    for (int n = 0; n < 32; ++n) total += part_exp2(x[k / 2 * 64 + n / 2 * 4 + k % 2 * 2 + n % 2], top);
    rows[k / 2][k % 2] = {top, quad_sum(total)};
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < 32; ++c) {
    float top = none, sum = 0;
#pragma unroll
    for (int k = 0; k < kSize / 32; ++k) top = fmaxf(top, x[k / 2 * 64 + c / 2 * 4 + k % 2 * 2 + c % 2]);
    top = column_max(top);
#pragma unroll
    for (int k = 0; k < kSize / 32; ++k) sum += part_exp2(x[k / 2 * 64 + c / 2 * 4 + k % 2 * 2 + c % 2], top);
    sum = column_sum(sum);
    if (lane < 4) column[c / 2 * 8 + 2 * lane + c % 2] = {top, sum};
  }
}

template <int kSize>
__device__ __forceinline__ void sums_of_softplus(const float (&x)[kSize], Partial (&rows)[kSize / 64][2]) {
  float total[kSize / 64][2] = {};
#pragma unroll
  for (int at = 0; at < kSize; ++at) total[at / 64][at / 2 % 2] += softplus(x[at]);
#pragma unroll
  for (int k = 0; k < kSize / 32; ++k) rows[k / 2][k % 2] = {0.0f, quad_sum(total[k / 2][k % 2])};
}

// Sums over a thread's rows, and (softmax) over the warp's columns into `column`.
template <int kSize>
__device__ __forceinline__ void tile_sums(const float (&x)[kSize], bool sigmoid_part, CommonShift shift,
                                          bool with_columns, Partial (&rows)[kSize / 64][2], Partial* column) {
  if (sigmoid_part) return sums_of_softplus(x, rows);
  const bool narrow = shift.serves();
  float2 range = {0.0f, shift.value};  // one constant for all
  if (!narrow) range = logit_range(x);
  if (narrow || range.y - range.x < kNarrowPart)
    sums_of_one_top(x, range.y, narrow, with_columns, rows, column);
  else
    sums_of_own_tops(x, rows, column);
}

// Tile (ti, tj) of the chunk, by the 128 threads that share `barrier`; a cluster may reach beyond the problem. No
// thread may touch s before all of them have returned.
template <typename Accumulator, typename Barrier>
__device__ __forceinline__ void store_tile_sums(const Pairs& p, const HopperStatistics& out, int ti, int tj,
                                                const Accumulator& acc, TileSumsShared& s, int thread,
                                                const Barrier& barrier) {
  constexpr int kTile = TileSumsTraits::kTile;
  const int local = ti * kTile, across = tj * kTile, first_row = thread / 32 * 16 + thread % 32 / 4;
  const int64_t i0 = out.row0 + local, j0 = out.col0 + across;
  if (local >= out.rows || j0 >= p.y.count) return;
  const bool sigmoid_part = out.bias != nullptr;
  float scale[2][2];
#pragma unroll
  for (int k = 0; k < 4; ++k)
    scale[k / 2][k % 2] = (sigmoid_part ? 1.0f : kLog2e) *
                          p.scale[min(i0 + first_row + k / 2 * 64 + k % 2 * 8, p.x.count - 1) * p.scale_row];
  float x[128];
  scaled(acc, scale, sigmoid_part ? *out.bias : 0.0f, x);
  if (tile_is_masked(p, i0, kTile, j0, kTile)) {
    mask_words<kTile, kTile>(p, i0, j0, s.mask, thread, TileSumsTraits::kThreads);
    barrier();
    leave_out(s.mask, first_row, x);
  }

  const bool with_columns = out.column_sums != nullptr && j0 >= out.col_begin;
  Partial rows[2][2];
  tile_sums(x, sigmoid_part, s.shift, with_columns, rows, s.column[thread / 32]);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int row = local + first_row + k / 2 * 64 + k % 2 * 8;
    if (thread % 4 == 0 && row < out.rows) out.row_sums[static_cast<int64_t>(tj) * out.rows + row] = rows[k / 2][k % 2];
  }
  if (!with_columns) return;
  barrier();
  if (j0 + thread >= p.y.count) return;
  Partial total = s.column[0][thread];
#pragma unroll
  for (int warp = 1; warp < TileSumsTraits::kWarps; ++warp) total = merge(total, s.column[warp][thread]);
  out.column_sums[ti * (p.y.count - out.col0) + across + thread] = total;
}

}  // namespace sslspec::cuda

// What a block of the Hopper statistics for rows of up to 512 columns (sums_sm90a.cu) does with its products:
// the super block of the portable kernel (statistics_sm80.cu), its partial results in the same slots. Plain
// CUDA, so that the emulator runs it too.
//
// Two groups of 128 threads own 64 rows of X each and go their own ways: a group's columns meet in its own shared
// memory, so that the exponentials of one overlap with the products of the other. Row sums stay in registers over a
// strip of up to 8 tiles, column sums in shared memory.
#pragma once
#include "pairwise/cuda/hopper/tile_sums.cuh"

namespace sslspec::cuda {

struct SumsTraits {
  static constexpr int kTile = 128, kGroups = 2, kGroup = 128, kWarps = kGroup / 32, kStrip = 8;
};

struct SumsArgs {
  const float* bias;           // sigmoid, or null
  Partial *x_parts, *y_parts;  // as in pairwise_statistics
  int64_t span, y_supers;      // PairwiseGrid
  bool rest;                   // only where no shift serves all: strips.cuh has made the others
};

struct SumsShared {
  uint32_t mask[SumsTraits::kGroups][64 * SumsTraits::kTile / 32];
  Partial part[SumsTraits::kGroups][SumsTraits::kWarps][SumsTraits::kTile];
  Partial columns[SumsTraits::kGroups][SumsTraits::kStrip * SumsTraits::kTile];
  float slots[12];
};

// The tiles of a super block in the order in which they are multiplied: strips of columns, rows of tiles, tiles.
struct SumsPlan : SuperTiles {
  __device__ SumsPlan(const Pairs& p, const SumsArgs& a, int64_t index) : SuperTiles(p, index, a.span, a.y_supers) {}
  __device__ int64_t strip_end(int64_t strip) const { return min(strip + SumsTraits::kStrip, y_end); }
  __device__ int64_t rows_end(int64_t strip) const { return diagonal ? min(x_end, strip_end(strip)) : x_end; }
  __device__ int64_t first(int64_t strip, int64_t row) const { return diagonal ? max(strip, row) : strip; }
};

// What the threads of a group, and all of them, wait at.
template <typename Group, typename All>
struct Barriers {
  Group group;
  All all;
};

// thread: 0 .. 255. multiply(row, tile, last, use) calls use(acc) with the group's 64 x 128 products, last: of this
// row.
template <typename Multiply, typename Group, typename All>
__device__ __forceinline__ void super_sums(const Pairs& p, const SumsArgs& a, const SumsPlan& plan, SumsShared& s,
                                           int thread, CommonShift shift, Multiply&& multiply,
                                           const Barriers<Group, All>& wait) {
  using Traits = SumsTraits;
  constexpr int kTile = Traits::kTile, kThreads = Traits::kGroups * Traits::kGroup;
  const int group = thread / Traits::kGroup, local = thread % Traits::kGroup, lane = thread % 32;
  const int own_row = local / 32 * 16 + lane / 4;  // of the group's 64, and the one 8 below
  const bool sigmoid_part = a.bias != nullptr, narrow = !sigmoid_part && shift.serves();
  const float bias = sigmoid_part ? *a.bias : 0.0f, unit = sigmoid_part ? 1.0f : kLog2e;
  const Partial none = {negative_infinity(), 0.0f}, empty = narrow ? Partial{shift.value, 0.0f} : none;
  Partial* rows_out = a.x_parts + plan.super.y * p.x.count;
  Partial* cols_out = p.symmetric            ? a.x_parts + plan.super.x * p.x.count
                      : a.y_parts == nullptr ? nullptr
                                             : a.y_parts + plan.super.x * p.y.count;
  for (int64_t i = plan.x_begin * kTile + thread; i < min(plan.x_end * kTile, p.x.count); i += kThreads)
    rows_out[i] = none;
  if (cols_out != nullptr)
    for (int64_t j = plan.y_begin * kTile + thread; j < min(plan.y_end * kTile, p.y.count); j += kThreads)
      cols_out[j] = none;

  for (int64_t strip = plan.y_begin; strip < plan.y_end; strip += Traits::kStrip) {
    for (int c = thread; c < Traits::kGroups * Traits::kStrip * kTile; c += kThreads) (&s.columns[0][0])[c] = empty;
    wait.all();  // the sums of columns, and the results in global memory, are there
    for (int64_t row = plan.x_begin; row < plan.rows_end(strip); ++row) {
      const int64_t i0 = row * kTile + group * 64;
      float scale[1][2];
#pragma unroll
      for (int h = 0; h < 2; ++h) scale[0][h] = unit * p.scale[min(i0 + own_row + 8 * h, p.x.count - 1) * p.scale_row];
      Partial sums[2] = {empty, empty};
      for (int64_t tile = plan.first(strip, row); tile < plan.strip_end(strip); ++tile) {
        const int64_t j0 = tile * kTile;
        multiply(row, tile, tile + 1 == plan.strip_end(strip), [&](const auto& acc) {
          float x[64];
          scaled(acc, scale, bias, x);
          if (tile_is_masked(p, row * kTile, kTile, j0, kTile)) {
            wait.group();
            mask_words<64, kTile>(p, i0, j0, s.mask[group], local, Traits::kGroup);
            wait.group();
            leave_out(s.mask[group], own_row, x);
          }
          const bool with_columns = cols_out != nullptr && !(p.symmetric && row == tile);
          if (with_columns) wait.group();  // the parts of the last tile have been read
          Partial found[1][2];
          tile_sums(x, sigmoid_part, shift, with_columns, found, s.part[group][local / 32]);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            if (narrow)
              sums[h].sum += found[0][h].sum;
            else
              sums[h] = merge(sums[h], found[0][h]);
          }
          if (!with_columns) return;
          wait.group();
          Partial& total = s.columns[group][(tile - strip) * kTile + local];
#pragma unroll
          for (int warp = 0; warp < Traits::kWarps; ++warp) {
            const Partial part = s.part[group][warp][local];
            if (narrow)
              total.sum += part.sum;
            else
              total = merge(total, part);
          }
        });
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t i = i0 + own_row + 8 * h;
        if (lane % 4 == 0 && i < p.x.count) rows_out[i] = merge(rows_out[i], sums[h]);
      }
    }
    wait.all();  // both groups' columns; on the diagonal their rows too, which have the same results
    if (cols_out != nullptr) {
      const int64_t j0 = strip * kTile, count = min(plan.strip_end(strip) * kTile, p.y.count) - j0;
      for (int64_t c = thread; c < count; c += kThreads)
        cols_out[j0 + c] = merge(merge(cols_out[j0 + c], s.columns[0][c]), s.columns[1][c]);
    }
    wait.all();
  }
}

}  // namespace sslspec::cuda

// The schedule of the Hopper statistics by strips of rows (strips_sm90a.cu): which tiles a block visits, who waits for
// whom, and what becomes of the products. Plain CUDA, so that the emulator runs it too.
//
// One shift has to serve all rows and columns (pairs.cuh); where none does the block returns at once. It owns the super
// block of the portable kernel (statistics_sm80.cu), with its slots for partial results. 128 columns stay in shared memory
// while a strip of at most 8 tiles of rows passes: a thread has 2 rows and 32 columns of a tile, so that the 32 column
// sums stay in registers and cross lanes once in a strip, while the 2 row sums go, after each tile, to shared memory that
// no other thread touches.
//
// Two groups of 128 threads own 64 rows of each tile, and take turns: one multiplies while the other takes
// exponentials. A group brings its slices of rows through a ring of its own, so that neither waits for memory which the
// other has to free. The column sums of group 0 pass to group 1, half a tile later, which adds up both.
//
// The exponentials may be kept (PairwiseProblem::kept): each thread stores its pairs of neighbours where it takes them.
//
// A problem with itself visits tiles on and over the diagonal. That on the diagonal, the last one of its strip, has
// rows only: its column sums are multiplied by 0.
#pragma once
#include "gpu/barriers_sm90.cuh"
#include "pairwise/cuda/hopper/tile_sums.cuh"

namespace sslspec::cuda {

struct StripsTraits {
  static constexpr int kTile = 128, kGroups = 2, kGroup = 128, kRows = kTile / kGroups, kWarps = kGroup / 32;
  static constexpr int kConsumers = kGroups * kGroup, kThreads = kGroup + kConsumers;
  static constexpr int kStrip = 8, kSlice = 64;  // tiles of rows, columns of the operands
  static constexpr int kStages = 4, kSlots = 8;  // slices of rows for each group, and of columns
  static constexpr int kXBytes = kRows * kSlice * 2, kYBytes = kTile * kSlice * 2;
};

struct StripsArgs {
  Partial *x_parts, *y_parts;  // as in pairwise_statistics
  int64_t span, y_supers;      // PairwiseGrid
  int slices;                  // of the operands, at most kSlots
  KeptExponentials kept;
};

struct StripsShared {
  using Traits = StripsTraits;
  alignas(1024) unsigned char x[Traits::kGroups][Traits::kStages][Traits::kXBytes];
  alignas(1024) unsigned char y[Traits::kSlots][Traits::kYBytes];
  float rows[Traits::kStrip * Traits::kTile];                      // sums over all columns of the super block
  float columns[Traits::kGroups * Traits::kWarps][Traits::kTile];  // sums over a strip, by warp
  uint32_t mask[Traits::kGroups][Traits::kRows * Traits::kTile / 32];
  float slots[12];
  SharedBarrier x_full[Traits::kGroups][Traits::kStages], x_empty[Traits::kGroups][Traits::kStages];
  SharedBarrier y_full[Traits::kSlots], y_empty[Traits::kSlots];
};

struct StripsPlan : SuperTiles {
  __device__ StripsPlan(const Pairs& p, const StripsArgs& a, int64_t index)
      : SuperTiles(p, index, a.span, a.y_supers) {}
  // Rows of tiles from `chunk` on against tile `column` of the columns.
  __device__ int64_t chunk_end(int64_t chunk) const { return min(chunk + StripsTraits::kStrip, x_end); }
  __device__ int64_t first_column(int64_t chunk) const { return diagonal ? chunk : y_begin; }
  __device__ int64_t strip_end(int64_t chunk, int64_t column) const {
    return diagonal ? min(chunk_end(chunk), column + 1) : chunk_end(chunk);
  }
};

// A place in a ring of kSize, and the parity of the round.
template <int kSize>
struct RingPlace {
  unsigned at, parity;
  __device__ explicit RingPlace(unsigned count) : at(count % kSize), parity(count / kSize % 2) {}
};
using XPlace = RingPlace<StripsTraits::kStages>;
using YPlace = RingPlace<StripsTraits::kSlots>;

// By all threads of the block, before any of the following.
__device__ __forceinline__ void init_strips(StripsShared& s) {
  using Traits = StripsTraits;
  if (threadIdx.x == 0) {
    for (int k = 0; k < Traits::kGroups * Traits::kStages; ++k)
      (&s.x_full[0][0])[k].init(1), (&s.x_empty[0][0])[k].init(Traits::kWarps);  // a lane of each warp
    for (int k = 0; k < Traits::kSlots; ++k) s.y_full[k].init(1), s.y_empty[k].init(Traits::kGroups * Traits::kWarps);
    publish_barriers();
  }
  __syncthreads();
}

// By one thread for each group: the rows of the group. load(barrier, row, slice, stage): rows `row` times 64 and after.
template <typename Load>
__device__ __forceinline__ void bring_rows(const StripsArgs& a, const StripsPlan& plan, StripsShared& s, int group,
                                           const Load& load) {
  using Traits = StripsTraits;
  unsigned count = 0;
  for (int64_t chunk = plan.x_begin; chunk < plan.x_end; chunk += Traits::kStrip)
    for (int64_t column = plan.first_column(chunk); column < plan.y_end; ++column)
      for (int64_t row = chunk; row < plan.strip_end(chunk, column); ++row)
        for (int k = 0; k < a.slices; ++k, ++count) {
          const XPlace place(count);
          s.x_empty[group][place.at].wait(place.parity ^ 1);  // the first round finds them free
          s.x_full[group][place.at].arrive_before(Traits::kXBytes);
          load(s.x_full[group][place.at], static_cast<int>(row) * Traits::kGroups + group, k, place.at);
        }
}

// By one thread: the columns. load(barrier, column, slice, slot).
template <typename Load>
__device__ __forceinline__ void bring_columns(const StripsArgs& a, const StripsPlan& plan, StripsShared& s,
                                              const Load& load) {
  unsigned count = 0;
  for (int64_t chunk = plan.x_begin; chunk < plan.x_end; chunk += StripsTraits::kStrip)
    for (int64_t column = plan.first_column(chunk); column < plan.y_end; ++column)
      for (int k = 0; k < a.slices; ++k, ++count) {
        const YPlace place(count);
        s.y_empty[place.at].wait(place.parity ^ 1);
        s.y_full[place.at].arrive_before(StripsTraits::kYBytes);
        load(s.y_full[place.at], static_cast<int>(column), k, place.at);
      }
}

// Numbered barriers. A turn is taken by one group and given by the other.
enum StripsBarrier { kAllConsumers = 1, kTurn = 2, kOwnGroup = 4, kColumnsThere = 6, kColumnsRead = 7 };

// By both groups, thread 0 .. 255. products: multiply(stage, slot, first) starts the products of a slice of the group's
// rows with one of the columns, `first` of a tile; wait<k>() leaves at most k of them unfinished; then products(i) is
// element i of the accumulator (tile_sums.cuh).
template <bool kKeeps, typename Products>
__device__ __forceinline__ void consume_strips(const Pairs& p, const StripsArgs& a, const StripsPlan& plan,
                                               StripsShared& s, int thread, float shift, Products& products) {
  using Traits = StripsTraits;
  constexpr int kTile = Traits::kTile, kBoth = Traits::kConsumers;
  const int group = thread / Traits::kGroup, local = thread % Traits::kGroup, lane = thread % 32;
  const int own_row = local / 32 * 16 + lane / 4;  // of the group's 64, and the one 8 below
  Partial* rows_out = a.x_parts + plan.super.y * p.x.count;
  Partial* columns_out = p.symmetric            ? a.x_parts + plan.super.x * p.x.count
                         : a.y_parts == nullptr ? nullptr
                                                : a.y_parts + plan.super.x * p.y.count;
  if (plan.diagonal)  // rows and columns share their slots
    for (int64_t i = plan.x_begin * kTile + thread; i < min(plan.x_end * kTile, p.x.count); i += kBoth)
      rows_out[i] = {shift, 0.0f};
  for (int r = thread; r < Traits::kStrip * kTile; r += kBoth) s.rows[r] = 0.0f;
  sync_at(kAllConsumers, kBoth);
  float scale[2] = {kLog2e * *p.scale, kLog2e * *p.scale};

  if (group == 1) arrive_at(kTurn, kBoth), arrive_at(kColumnsRead, kBoth);
  unsigned x_count = 0, y_count = 0;  // slices
  for (int64_t chunk = plan.x_begin; chunk < plan.x_end; chunk += Traits::kStrip) {
    for (int64_t column = plan.first_column(chunk); column < plan.y_end; ++column, y_count += a.slices) {
      const int64_t end = plan.strip_end(chunk, column), j0 = column * kTile;
      float sums[32] = {};  // of columns 8 (k / 2) + 2 (lane % 4) + k % 2
      uint32_t masked = 0;  // tiles of the strip
      for (int64_t row = chunk; row < end; ++row) {
        const int64_t i0 = row * kTile + group * Traits::kRows;
        const bool first = row == chunk, last = row + 1 == end;
        if (p.scale_row != 0) {
#pragma unroll
          for (int h = 0; h < 2; ++h)
            scale[h] = kLog2e * p.scale[min(i0 + own_row + 8 * h, p.x.count - 1) * p.scale_row];
        }
        sync_at(kTurn + group, kBoth);
        for (int k = 0; k < a.slices; ++k, ++x_count) {
          const XPlace x(x_count);
          const YPlace y(y_count + k);
          if (first) s.y_full[y.at].wait(y.parity);
          s.x_full[group][x.at].wait(x.parity);
          products.multiply(x.at, y.at, k == 0);
          if (k == 0) continue;
          products.template wait<1>();  // the slice before
          if (lane == 0) {
            s.x_empty[group][XPlace(x_count - 1).at].arrive();
            if (last) s.y_empty[YPlace(y_count + k - 1).at].arrive();
          }
        }
        arrive_at(kTurn + (group ^ 1), kBoth);  // while the last slice is multiplied
        if (first) {                            // each lane looks at a tile of rows
          const int64_t tile = chunk + lane;
          masked = __ballot_sync(0xffffffffu, tile < end && tile_is_masked(p, tile * kTile, kTile, j0, kTile));
        }
        products.template wait<0>();
        if (lane == 0) {
          s.x_empty[group][XPlace(x_count - 1).at].arrive();
          if (last) s.y_empty[YPlace(y_count + a.slices - 1).at].arrive();
        }

        float x[64];
#pragma unroll
        for (int k = 0; k < 64; ++k) x[k] = fmaf(products(k), scale[k / 2 % 2], -shift);
        if (masked >> (row - chunk) & 1) {
          sync_at(kOwnGroup + group, Traits::kGroup);
          mask_words<Traits::kRows, kTile>(p, i0, j0, s.mask[group], local, Traits::kGroup);
          sync_at(kOwnGroup + group, Traits::kGroup);
          leave_out(s.mask[group], own_row, x);
        }
        const float counted = plan.diagonal && row == column ? 0.0f : 1.0f;
        KeptExponentials tile = a.kept;  // this thread's part of it
        if constexpr (kKeeps) tile = kept_at(tile, i0 + own_row, j0 + lane % 4 * 2);
        float total[2][2] = {};
#pragma unroll
        for (int k = 0; k < 64; ++k) {
          x[k] = exp2_fast(x[k]);
          total[k / 2 % 2][k % 2] += x[k];
          sums[k / 4 * 2 + k % 2] = fmaf(x[k], counted, sums[k / 4 * 2 + k % 2]);
          if (kKeeps && k % 2 == 1) store_kept(tile, k / 2 % 2 * 8, k / 4 * 8, x[k - 1], x[k]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float sum = quad_sum(total[h][0] + total[h][1]);
          if (lane % 4 == 0)
            s.rows[static_cast<int>(row - chunk) * kTile + group * Traits::kRows + own_row + 8 * h] += sum;
        }
      }
      if (columns_out == nullptr) continue;
      scatter_column_sums(sums);
      if (group == 0) sync_at(kColumnsRead, kBoth);
#pragma unroll
      for (int k = 0; k < 4; ++k) s.columns[thread / 32][8 * (lane / 4 * 2 + k / 2) + lane % 4 * 2 + k % 2] = sums[k];
      if (group == 0) {
        arrive_at(kColumnsThere, kBoth);
        continue;
      }
      sync_at(kColumnsThere, kBoth);
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < Traits::kGroups * Traits::kWarps; ++warp) sum += s.columns[warp][local];
      arrive_at(kColumnsRead, kBoth);
      if (const int64_t j = j0 + local; j < p.y.count) {
        const bool begun = plan.diagonal || chunk > plan.x_begin;
        columns_out[j] = {shift, begun ? columns_out[j].sum + sum : sum};
      }
    }
    sync_at(kAllConsumers, kBoth);  // all sums of these rows, and on the diagonal all of their columns
    for (int r = thread; r < Traits::kStrip * kTile; r += kBoth) {
      const int64_t i = chunk * kTile + r;
      if (i < min(plan.chunk_end(chunk) * kTile, p.x.count))
        rows_out[i] = {shift, plan.diagonal ? rows_out[i].sum + s.rows[r] : s.rows[r]};
      s.rows[r] = 0.0f;
    }
    sync_at(kAllConsumers, kBoth);
  }
  if (group == 0) sync_at(kTurn, kBoth), sync_at(kColumnsRead, kBoth);  // what group 1 gave last
}

}  // namespace sslspec::cuda

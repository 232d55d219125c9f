// Forward of `pairwise`: log-sum-exp of rows and columns (softmax), or row sums of softplus (sigmoid), in one pass.
//
// Tiling. A block of 256 threads owns a super block of span x span tiles of 128 x 128. It walks over strips of at most
// kStrip tiles: for every row of tiles the products come from TilePipe (gpu/tile_sm80.cuh), and the exponentials are
// taken in the accumulator registers. Row sums stay in registers over a row of a strip, column sums in shared memory
// over a strip; both are then merged into this block's own slot of the partial results in global memory, so that no
// atomics are needed and the order of every sum is fixed by the shapes.
// Symmetric case: only tiles i <= j; off the diagonal they serve rows and columns.
//
// Memory traffic per tile: 128 rows of Y (and of X when X is not resident) from L2. Work per element: the product,
// one exponential (two when the range of the logits is wide), two additions.
// Precision policy: fp32 sums over at most span tiles, merged in fp32, the logarithm in fp64.
#include "pairwise/cuda/pairs.cuh"
#include "pairwise/cuda/portable.h"
#include "pairwise/cuda/row_quarters.cuh"

namespace sslspec::cuda {
namespace {

template <typename MathMode, bool kIsSigmoid, bool kKeepsThem = false>
struct StatisticsTraits {
  using Math = MathMode;
  static constexpr bool kSigmoid = kIsSigmoid, kKeeps = kKeepsThem;  // keeps: PairwiseProblem::kept
  static constexpr int kStrip = 8;                                   // tiles whose column sums fit in shared memory
  static constexpr int kBlocks = sizeof(typename Math::Operand4) > 16 ? 1 : 2;  // split operands need the registers
  static constexpr int kColumns = kStrip * TileTraits::kRows;
};

template <typename Traits>
struct StatisticsShared {
  Partial column[2][Traits::kColumns];  // by half of the tile's rows
  RowQuarters<Partial> row;
  uint32_t mask[TileTraits::kRows * TileTraits::kRows / 32];
  float row_scale[TileTraits::kRows];
  float slots[TileTraits::kWarps];
};

using Accumulator = float[4][4][4];

// acc *= row scale; left-out pairs become `out`. bits: mask of the tile, or null.
__device__ __forceinline__ void scale_and_mask(Accumulator& acc, const float* row_scale, const uint32_t* bits,
                                               float out) {
  const int quarter = threadIdx.x / 32 % 4;  // this warp's 32 columns are one word of the mask
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = TilePipe::row_of(m, h);
      const float c = row_scale[r];
      const uint32_t word = bits == nullptr ? 0u : bits[r * 4 + quarter] >> threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = acc[m][n][2 * h + e];
          x = word >> (n * 8 + e) & 1 ? out : x * c;
        }
    }
}

// One exponential serves row and column. The scale is folded into the exponent's multiply-add, unless `scaled`.
// kept: from the first pair of the tile on.
template <bool kKeeps>
__device__ __forceinline__ void add_narrow(const Accumulator& acc, const float* row_scale, bool scaled, float shift,
                                           float (&sum)[4][2], Partial* column, KeptExponentials kept) {
  float column_total[4][2] = {};
  if constexpr (kKeeps) kept = kept_at(kept, TilePipe::row_of(0, 0), TilePipe::column_of(0, 0));
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float c = scaled ? 1.0f : row_scale[TilePipe::row_of(m, h)];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        float value[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          value[e] = exp2_fast(fmaf(acc[m][n][2 * h + e], c, -shift));
          sum[m][h] += value[e];
          column_total[n][e] += value[e];
        }
        if constexpr (kKeeps) store_kept(kept, 0, n * 8, value[0], value[1]);
      }
      if constexpr (kKeeps) kept = kept_at(kept, 8, 0);
    }
  if (column == nullptr) return;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float total = column_sum(column_total[n][e]);
      if (threadIdx.x % 32 < 4) column[TilePipe::column_of(n, e)].sum += total;
    }
}

// Running maxima, rows in registers and columns in shared memory: two exponentials.
__device__ __forceinline__ void add_wide(const Accumulator& acc, float (&top)[4][2], float (&sum)[4][2],
                                         Partial* column) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float highest = top[m][h];
#pragma unroll
      for (int n = 0; n < 4; ++n) highest = fmaxf(highest, fmaxf(acc[m][n][2 * h], acc[m][n][2 * h + 1]));
      highest = quad_max(highest);
      const float base = highest == negative_infinity() ? 0.0f : highest;
      sum[m][h] *= exp2_fast(top[m][h] - base);  // top = -inf: the sum is 0 (or NaN, which stays)
      top[m][h] = highest;
#pragma unroll
      for (int n = 0; n < 4; ++n)
        sum[m][h] += exp2_fast(acc[m][n][2 * h] - base) + exp2_fast(acc[m][n][2 * h + 1] - base);
    }
  if (column == nullptr) return;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float highest = negative_infinity(), total = 0;
#pragma unroll
      for (int m = 0; m < 4; ++m) highest = fmaxf(highest, fmaxf(acc[m][n][e], acc[m][n][2 + e]));
      highest = column_max(highest);
      const float base = highest == negative_infinity() ? 0.0f : highest;
#pragma unroll
      for (int m = 0; m < 4; ++m) total += exp2_fast(acc[m][n][e] - base) + exp2_fast(acc[m][n][2 + e] - base);
      total = column_sum(total);
      Partial& out = column[TilePipe::column_of(n, e)];
      if (threadIdx.x % 32 < 4) out = merge(out, {highest, total});
    }
}

// Left-out pairs arrive as -inf, whose softplus is 0.
__device__ __forceinline__ void add_softplus(const Accumulator& acc, float bias, float (&sum)[4][2]) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int n = 0; n < 4; ++n)
        sum[m][h] += softplus(acc[m][n][2 * h] + bias) + softplus(acc[m][n][2 * h + 1] + bias);
}

template <typename Traits>
__global__ void __launch_bounds__(TileTraits::kThreads, Traits::kBlocks)
    statistics_kernel(const __grid_constant__ Pairs p, const float* bias_pointer, Partial* x_parts, Partial* y_parts,
                      int64_t span, int64_t y_supers, bool resident, KeptExponentials kept) {
  using Math = typename Traits::Math;
  constexpr int kTile = TileTraits::kRows;
  static_assert(!Traits::kSigmoid || !Traits::kKeeps);
  if (is_done(p)) return;
  unsigned char* shared = dynamic_shared();
  const TilePipe pipe(shared, p.x.bytes, resident);
  StatisticsShared<Traits>& s =
      *reinterpret_cast<StatisticsShared<Traits>*>(shared + TilePipe::shared_bytes(p.x.bytes, resident));

  const SuperTiles tiles(p, blockIdx.x, span, y_supers);
  Partial* rows_out = x_parts + tiles.super.y * p.x.count;
  Partial* cols_out = p.symmetric          ? x_parts + tiles.super.x * p.x.count
                      : y_parts == nullptr ? nullptr
                                           : y_parts + tiles.super.x * p.y.count;

  CommonShift common = {0.0f};
  if constexpr (!Traits::kSigmoid) common = common_shift<TileTraits::kWarps>(p, s.slots);
  const bool narrow = Traits::kSigmoid || common.serves();
  const float shift = common.value, bias = Traits::kSigmoid ? *bias_pointer : 0.0f;
  const Partial empty = {narrow ? (Traits::kSigmoid ? 0.0f : shift) : negative_infinity(), 0.0f};
  for (int64_t i = tiles.x_begin * kTile + threadIdx.x; i < min(tiles.x_end * kTile, p.x.count); i += blockDim.x)
    rows_out[i] = empty;
  if (cols_out != nullptr)
    for (int64_t j = tiles.y_begin * kTile + threadIdx.x; j < min(tiles.y_end * kTile, p.y.count); j += blockDim.x)
      cols_out[j] = empty;

  for (int64_t strip = tiles.y_begin; strip < tiles.y_end; strip += Traits::kStrip) {
    const int64_t strip_end = min(strip + Traits::kStrip, tiles.y_end);
    __syncthreads();  // the column sums of the previous strip have been read
    for (int c = threadIdx.x; c < 2 * Traits::kColumns; c += blockDim.x) (&s.column[0][0])[c] = empty;

    const int64_t rows_end = tiles.diagonal ? min(tiles.x_end, strip_end) : tiles.x_end;
    for (int64_t ti = tiles.x_begin; ti < rows_end; ++ti) {
      const int64_t i0 = ti * kTile, first = tiles.diagonal ? max(strip, ti) : strip;
      __syncthreads();  // the row scales of the previous row have been read
      if (threadIdx.x < kTile) {
        const int64_t i = min(i0 + threadIdx.x, p.x.count - 1);
        s.row_scale[threadIdx.x] = p.scale[i * p.scale_row] * (Traits::kSigmoid ? 1.0f : kLog2e);
      }
      float top[4][2], sum[4][2];
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) top[m][h] = empty.top, sum[m][h] = 0;

      pipe.run<Math>(
          p.x, i0, p.y, first * kTile, static_cast<int>(strip_end - first), [&](int tile, float (&acc)[4][4][4]) {
            const int64_t j0 = (first + tile) * kTile;
            const bool masked = tile_is_masked(p, i0, kTile, j0, kTile);
            if (masked) {
              __syncthreads();
              fill_mask<kTile, kTile>(p, i0, j0, s.mask);
              __syncthreads();
            }
            const bool scaled = masked || !narrow || Traits::kSigmoid;
            if (scaled) scale_and_mask(acc, s.row_scale, masked ? s.mask : nullptr, negative_infinity());
            const bool columns = cols_out != nullptr && !(p.symmetric && i0 == j0);
            Partial* column = columns ? s.column[threadIdx.x / 128] + (first - strip + tile) * kTile : nullptr;
            if constexpr (Traits::kSigmoid)
              add_softplus(acc, bias, sum);
            else if (narrow)
              add_narrow<Traits::kKeeps>(acc, s.row_scale, scaled, shift, sum, column, kept_at(kept, i0, j0));
            else
              add_wide(acc, top, sum, column);
          });

      // Row sums: quad, then the four warps that share the rows, then this block's slot.
      store_quarters(s.row, [&](int m, int h) { return Partial{top[m][h], quad_sum(sum[m][h])}; });
      __syncthreads();
      const int64_t i = i0 + threadIdx.x;
      if (threadIdx.x < kTile && i < p.x.count)
        rows_out[i] = over_quarters(s.row, rows_out[i], [&](Partial a, Partial b) {
          return narrow ? Partial{a.top, a.sum + b.sum} : merge(a, b);
        });
    }
    if (cols_out == nullptr) continue;
    __syncthreads();
    for (int c = threadIdx.x; c < (strip_end - strip) * kTile; c += blockDim.x) {
      const int64_t j = strip * kTile + c;
      if (j >= p.y.count) continue;
      Partial out = cols_out[j];
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        const Partial part = s.column[w][c];
        if (narrow)
          out.sum += part.sum;
        else
          out = merge(out, part);
      }
      cols_out[j] = out;
    }
  }
}

template <typename Traits>
void launch_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts) {
  const PairwiseGrid grid(p.x.shape[0], p.y.shape[0]);
  const Pairs pairs = pairs_of(p);
  constexpr size_t kOther = sizeof(StatisticsShared<Traits>);
  const bool resident = TilePipe::keeps_x(pairs.x.bytes, kOther, shared_limit());
  launch("pairwise_statistics", statistics_kernel<Traits>, dim3(static_cast<unsigned>(grid.blocks(p.symmetric))),
         TileTraits::kThreads, TilePipe::shared_bytes(pairs.x.bytes, resident) + kOther, p.stream, pairs,
         static_cast<const float*>(p.bias), x_parts, y_parts, grid.span, grid.y_supers, resident, p.kept);
}

}  // namespace

#ifndef SSLSPEC_MAX_SUPERS  // the emulator's tests use few, so that small problems reach every path
#define SSLSPEC_MAX_SUPERS 40
#endif

// At most this many super blocks a side: enough blocks to balance any GPU, and as many partial results per row.
PairwiseGrid::PairwiseGrid(int64_t n, int64_t m) {
  const int64_t x_tiles = ceil_div(n, TileTraits::kRows), y_tiles = ceil_div(m, TileTraits::kRows);
  const int64_t tiles = x_tiles > y_tiles ? x_tiles : y_tiles;
  span = tiles <= SSLSPEC_MAX_SUPERS ? 1 : ceil_div(tiles, SSLSPEC_MAX_SUPERS);
  x_supers = ceil_div(x_tiles, span), y_supers = ceil_div(y_tiles, span);
}

void portable_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts) {
  const DeviceGuard guard(p.device);
  const bool fast = p.precision == Precision::fast;
  if (p.bias != nullptr) {
    const auto run = p.x.dtype == DType::bf16 ? launch_statistics<StatisticsTraits<Bf16, true>>
                     : fast                   ? launch_statistics<StatisticsTraits<Tf32, true>>
                                              : launch_statistics<StatisticsTraits<Tf32x3, true>>;
    return run(p, x_parts, y_parts);
  }
  if (p.kept.data != nullptr) return launch_statistics<StatisticsTraits<Bf16, false, true>>(p, x_parts, y_parts);
  const auto run = p.x.dtype == DType::bf16 ? launch_statistics<StatisticsTraits<Bf16, false>>
                   : fast                   ? launch_statistics<StatisticsTraits<Tf32, false>>
                                            : launch_statistics<StatisticsTraits<Tf32x3, false>>;
  run(p, x_parts, y_parts);
}

}  // namespace sslspec::cuda

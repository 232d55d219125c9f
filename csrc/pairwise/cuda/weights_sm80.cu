// Backward of `pairwise` for large d: the weights W_ij of a chunk of rows as a matrix in the type of the operands, one
// pass, so that W Y and W^T X can be products of a tuned library. The caller bounds the chunk.
//
// Tiling: one block of 256 threads per kSpan tiles of 128 x 128 in a row of tiles; the products come from TilePipe, the
// exponentials are taken in the accumulator registers and stored from there.
// Memory traffic: one write of W, the operands from L2. Precision policy: fp32 until W is rounded, or until it is split
// into three bfloat16 pieces, W = W1 + W2 + W3: 8 bits each make the 24 of fp32, and library products of the pieces
// (primitives/_matmul.py) have its accuracy. bfloat16 has the exponents of fp32, but its subnormal numbers end at
// 2^-133: weights below 2^-110 keep fewer than 24 bits.
// Kept exponentials are rounded to bfloat16 before they become weights: one read and one write of the matrix, of a
// problem with itself a read of half of it.
#include "gpu/pack.cuh"
#include "gpu/types.cuh"
#include "pairwise/cuda/pairs.cuh"
#include "pairwise/cuda/portable.h"
#include "pairwise/cuda/weights.cuh"

namespace sslspec::cuda {
namespace {

struct WeightsShared {
  uint32_t mask[TileTraits::kRows * TileTraits::kRows / 32];
  Weight row[TileTraits::kRows], column[TileTraits::kRows];
  float row_scale[TileTraits::kRows], column_scale[TileTraits::kRows];
  float slots[TileTraits::kWarps];
};

struct WeightsArgs {
  const Weight *x_weights, *y_weights;
  const float* bias;
  bool rest;  // only where no shift serves all rows and columns
  MatrixOut out;
};

template <typename Traits>
__global__ void __launch_bounds__(TileTraits::kThreads, Traits::kBlocks)
    weights_kernel(const __grid_constant__ Pairs p, const __grid_constant__ WeightsArgs args) {
  constexpr int kTile = TileTraits::kRows;
  const MatrixBlock<WeightsShared> block(args.out, p.x, p.y.count, Traits::kSpan);
  WeightsShared& s = block.shared;
  const int64_t i0 = block.i0;
  const bool sigmoid_part = args.bias != nullptr;
  const float bias = sigmoid_part ? *args.bias : 0.0f, unit = sigmoid_part ? 1.0f : kLog2e;
  CommonShift common = {0.0f};
  if (!sigmoid_part) common = common_shift<TileTraits::kWarps>(p, s.slots);
  if (args.rest && common.serves()) return;
  const bool one_exponential = sigmoid_part || common.serves();
  const float shift = common.value;

  if (threadIdx.x < kTile) {
    const int64_t i = min(i0 + threadIdx.x, p.x.count - 1);
    s.row[threadIdx.x] = args.x_weights != nullptr ? args.x_weights[i] : kNoWeight;
    s.row_scale[threadIdx.x] = unit * (p.scale_col != 0 ? 1.0f : p.scale[i * p.scale_row]);
  }
  block.pipe.template run<typename Traits::Math>(
      p.x, i0, p.y, block.first * kTile, static_cast<int>(block.last - block.first),
      [&](int tile, float (&acc)[4][4][4]) {
        const int64_t j0 = (block.first + tile) * kTile;
        __syncthreads();  // the columns of the previous tile have been read
        if (threadIdx.x < kTile) {
          const int64_t j = min(j0 + threadIdx.x, p.y.count - 1);
          s.column[threadIdx.x] = args.y_weights != nullptr ? args.y_weights[j] : kNoWeight;
          s.column_scale[threadIdx.x] = p.scale_col != 0 ? p.scale[j * p.scale_col] : 1.0f;
        }
        const bool masked = tile_is_masked(p, i0, kTile, j0, kTile);
        if (masked) fill_mask<kTile, kTile>(p, i0, j0, s.mask);
        __syncthreads();
        // weight_of(logit, row, column) is chosen for the whole tile: a branch per pair would leave one exponential in
        // flight
        const auto store = [&](const auto& weight_of) {
#pragma unroll
          for (int n = 0; n < 4; ++n) {  // the outer loop: what belongs to two columns stays in registers, and no more
            const int c = TilePipe::column_of(n, 0);
            const int64_t j = j0 + c;
            const Weight column[2] = {s.column[c], s.column[c + 1]};
            const float factor[2] = {s.column_scale[c], s.column_scale[c + 1]};
#pragma unroll
            for (int m = 0; m < 4; ++m)
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                const int r = TilePipe::row_of(m, h);
                const Weight row = s.row[r];
                const float row_scale = s.row_scale[r];
                const uint32_t word = masked ? s.mask[r * 4 + threadIdx.x / 32 % 4] : 0u;
                float value[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                  const float w = weight_of(acc[m][n][2 * h + e] * (row_scale * factor[e]), row, column[e]);
                  value[e] = word >> (c + e) % 32 & 1 ? 0.0f : w * factor[e];
                }
                const int64_t i = i0 + r;
                if (i < p.x.count && j < p.y.count)
                  block.template store<Traits>(args.out, i - args.out.row0, j, p.y.count, value);
              }
          }
        };
        if (sigmoid_part)
          store([&](float x, Weight row, Weight other) { return sigmoid(x + bias) * (row.factor + other.factor); });
        else if (one_exponential)
          store([&](float x, Weight row, Weight other) { return exp2_fast(x - shift) * (row.factor + other.factor); });
        else
          store([&](float x, Weight row, Weight other) {
            return fmaf(other.factor, exp2_fast(x - other.shift), row.factor * exp2_fast(x - row.shift));
          });
      });
}

// Kept exponentials (PairwiseProblem::kept) to weights, in place, where one shift serves all rows and columns. A block
// has kSpan tiles, one below the other; a thread takes kWidth neighbours in a row. A problem with itself has
// exponentials on and over the diagonal: a tile over it is written again below it, transposed in shared memory.
struct KeptTraits {
  static constexpr int kTile = 64, kSpan = 8, kThreads = 256, kWidth = 8, kPacks = kTile / kWidth;
  static_assert(kThreads % kPacks == 0 && kTile % (kThreads / kPacks) == 0);
};

struct KeptArgs {
  KeptExponentials kept;
  const Weight *x_weights, *y_weights;
};

template <bool kSymmetric>
__global__ void __launch_bounds__(KeptTraits::kThreads)
    kept_weights_kernel(const __grid_constant__ Pairs p, const __grid_constant__ KeptArgs args) {
  constexpr int kTile = KeptTraits::kTile, kThreads = KeptTraits::kThreads, kWidth = KeptTraits::kWidth,
                kPacks = KeptTraits::kPacks;
  constexpr int kPitch = kTile + 2;  // an odd number of words: neighbouring rows are in different banks
  __shared__ float slots[kThreads / 32];
  __shared__ __nv_bfloat16 turned[kSymmetric ? kTile * kPitch : 1];
  if (!common_shift<kThreads / 32>(p, slots).serves()) return;
  const int column = threadIdx.x % kPacks * kWidth, first_row = threadIdx.x / kPacks;
  const int64_t j0 = static_cast<int64_t>(blockIdx.x) * kTile,
                first = static_cast<int64_t>(blockIdx.y) * KeptTraits::kSpan;
  const int64_t tiles = kSymmetric ? blockIdx.x + 1 : ceil_div(p.x.count, kTile),
                last = min(first + KeptTraits::kSpan, tiles);
  const auto at = [&](int64_t i, int64_t j) { return static_cast<__nv_bfloat16*>(kept_at(args.kept, i, j).data); };
  // what lies beyond the last row or column is 0
  float factor[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) factor[k] = args.y_weights[min(j0 + column + k, p.y.count - 1)].factor;
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t i0 = tile * kTile;
#pragma unroll
    for (int r = first_row; r < kTile; r += kThreads / kPacks) {
      __nv_bfloat16* const pack = at(i0 + r, j0 + column);
      const float own = args.x_weights[min(i0 + r, p.x.count - 1)].factor;
      Pack<float, kWidth> w = load_wide<kWidth>(pack);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        w.v[k] *= own + factor[k];
        if (kSymmetric) turned[(column + k) * kPitch + r] = narrowed<__nv_bfloat16>(w.v[k]);
      }
      store_narrow<__nv_bfloat16, kWidth>(pack, w);
    }
    if (!kSymmetric || i0 == j0) continue;
    __syncthreads();
#pragma unroll
    for (int r = first_row; r < kTile; r += kThreads / kPacks) {
      Pack<__nv_bfloat16, kWidth> w;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) w.v[k] = turned[r * kPitch + column + k];
      *reinterpret_cast<Pack<__nv_bfloat16, kWidth>*>(at(j0 + r, i0 + column)) = w;
    }
    __syncthreads();  // the tile has been read
  }
}

void launch_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w, bool rest) {
  const Pairs pairs = pairs_of(p);
  const WeightsArgs args = {b.x_weights, b.y_weights, static_cast<const float*>(p.bias), rest,
                            MatrixOut(w, pairs.x, sizeof(WeightsShared))};
  with_weights_traits(p.x.dtype, p.precision, w.pieces, [&](auto traits) {
    using Traits = decltype(traits);
    launch_matrix<WeightsShared>("pairwise_weights", weights_kernel<Traits>, {w.rows, pairs.y.count, Traits::kSpan},
                                 args.out, pairs.x, p.stream, pairs, args);
  });
}

}  // namespace

void portable_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w) {
  const DeviceGuard guard(p.device);
  launch_weights(p, b, w, false);
}

void pairwise_kept_weights(const PairwiseProblem& p, const PairwiseBackward& b) {
  const DeviceGuard guard(p.device);
  const auto kernel = p.symmetric ? kept_weights_kernel<true> : kept_weights_kernel<false>;
  const auto tiles = [](int64_t rows) { return ceil_div(rows, KeptTraits::kTile); };
  const int64_t n = p.x.shape[0];
  const dim3 grid(static_cast<unsigned>(tiles(p.y.shape[0])),
                  static_cast<unsigned>(ceil_div(tiles(n), KeptTraits::kSpan)));
  launch("pairwise_kept_weights", kernel, grid, KeptTraits::kThreads, 0, p.stream, pairs_of(p),
         KeptArgs{p.kept, b.x_weights, b.y_weights});
  launch_weights(p, b, {0, n, p.kept.data, p.kept.pitch, 1}, true);
}

}  // namespace sslspec::cuda

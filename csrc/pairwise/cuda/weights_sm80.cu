// Backward of `pairwise` for large d: the weights W_ij of a chunk of rows as a matrix in the type of the operands, one
// pass, so that W Y and W^T X can be products of a tuned library. The caller bounds the chunk.
//
// Tiling: one block of 256 threads per kSpan tiles of 128 x 128 in a row of tiles; the products come from TilePipe, the
// exponentials are taken in the accumulator registers and stored from there.
// Memory traffic: one write of W, the operands from L2. Precision policy: fp32 until W is rounded, or until it is split
// into three bfloat16 pieces, W = W1 + W2 + W3: 8 bits each make the 24 of fp32, and library products of the pieces
// (primitives/_matmul.py) have its accuracy. bfloat16 has the exponents of fp32, but its subnormal numbers end at
// 2^-133: weights below 2^-110 keep fewer than 24 bits.
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

struct WeightsOut {
  const Weight *x_weights, *y_weights;
  const float* bias;
  void* data;  // [rows, m] per piece
  int64_t pitch, piece_step, row0;
  bool resident;  // TilePipe::keeps_x
};

template <typename Traits>
__global__ void __launch_bounds__(TileTraits::kThreads, Traits::kBlocks)
    matrix_kernel(const __grid_constant__ Pairs p, const __grid_constant__ WeightsOut out) {
  constexpr int kTile = TileTraits::kRows;
  using Elem = typename Traits::Elem;
  unsigned char* shared = dynamic_shared();
  const TilePipe pipe(shared, p.x.bytes, out.resident);
  WeightsShared& s = *reinterpret_cast<WeightsShared*>(shared + TilePipe::shared_bytes(p.x.bytes, out.resident));
  const int64_t i0 = out.row0 + static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Traits::kSpan;
  const int64_t last = min(first + Traits::kSpan, ceil_div(p.y.count, kTile));
  const bool sigmoid_part = out.bias != nullptr;
  const float bias = sigmoid_part ? *out.bias : 0.0f, unit = sigmoid_part ? 1.0f : kLog2e;
  CommonShift common = {0.0f};
  if (!sigmoid_part) common = common_shift<TileTraits::kWarps>(p, s.slots);
  const bool one_exponential = sigmoid_part || common.serves();
  const float shift = common.value;
  const bool aligned = out.pitch % 2 == 0;

  if (threadIdx.x < kTile) {
    const int64_t i = min(i0 + threadIdx.x, p.x.count - 1);
    s.row[threadIdx.x] = out.x_weights != nullptr ? out.x_weights[i] : kNoWeight;
    s.row_scale[threadIdx.x] = unit * (p.scale_col != 0 ? 1.0f : p.scale[i * p.scale_row]);
  }
  pipe.run<typename Traits::Math>(
      p.x, i0, p.y, first * kTile, static_cast<int>(last - first), [&](int tile, float (&acc)[4][4][4]) {
        const int64_t j0 = (first + tile) * kTile;
        __syncthreads();  // the columns of the previous tile have been read
        if (threadIdx.x < kTile) {
          const int64_t j = min(j0 + threadIdx.x, p.y.count - 1);
          s.column[threadIdx.x] = out.y_weights != nullptr ? out.y_weights[j] : kNoWeight;
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
                  store_pieces<Traits>(static_cast<Elem*>(out.data) + (i - out.row0) * out.pitch + j, out.piece_step,
                                       value[0], value[1], j + 1 < p.y.count, aligned);
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

template <typename Math, int kPieces>
void launch_matrix(const PairwiseProblem& p, const Pairs& pairs, const WeightsOut& out, int64_t rows) {
  using Traits = WeightsTraits<Math, kPieces>;
  const int64_t strips = ceil_div(ceil_div(pairs.y.count, TileTraits::kRows), Traits::kSpan);
  launch("pairwise_weights", matrix_kernel<Traits>,
         dim3(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(rows, TileTraits::kRows))),
         TileTraits::kThreads, TilePipe::shared_bytes(pairs.x.bytes, out.resident) + sizeof(WeightsShared), p.stream,
         pairs, out);
}

}  // namespace

void portable_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w) {
  const DeviceGuard guard(p.device);
  const Pairs pairs = pairs_of(p);
  const bool resident = TilePipe::keeps_x(pairs.x.bytes, sizeof(WeightsShared), shared_limit());
  const WeightsOut out = {
      b.x_weights, b.y_weights, static_cast<const float*>(p.bias), w.data, w.pitch, w.rows * w.pitch, w.row0, resident};
  const bool fast = p.precision == Precision::fast;
  const auto run = p.x.dtype == DType::bf16 ? launch_matrix<Bf16, 1>
                   : w.pieces == 1          ? (fast ? launch_matrix<Tf32, 1> : launch_matrix<Tf32x3, 1>)
                   : fast                   ? launch_matrix<Tf32, kWeightPieces>
                                            : launch_matrix<Tf32x3, kWeightPieces>;
  run(p, pairs, out, w.rows);
}

}  // namespace sslspec::cuda

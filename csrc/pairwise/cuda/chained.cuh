// Backward of `pairwise` for d <= 256, chained as in attention: S = X Y^T -> W -> W Y, without storing W.
//
// Tiling. A block owns kRows rows of X (resident in shared memory) and walks over tiles of kCols rows of Y, two stages
// deep with cp.async. Each warp owns 16 kTiles whole rows: the accumulator of S becomes, in registers, the left operand
// of the second product, and the tile of Y serves both products (as it is, and transposed). The gradient rows stay in
// registers to the end: no atomics, one fixed order. When there are too few row blocks to fill a GPU, the columns are
// split and pairwise_reduce adds the parts in order.
//
// Traits of one instantiation: arithmetic mode and padded width kD. Shared-memory rows are padded by 16 bytes, so that
// ldmatrix (and the 32-bit reads of the tf32 modes) touch every bank once.
// Memory traffic per tile: kCols rows of Y from L2. Work per pair: 4 d flops and one exponential (two when wide).
// Precision policy: fp32 accumulation; W is rounded to the type of the operands for the second product.
#pragma once
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {

template <typename MathMode, int kWidth>
struct ChainedTraits {
  using Math = MathMode;
  using Elem = typename Math::Elem;
  static constexpr int kD = kWidth;
  static constexpr bool kHalf = sizeof(Elem) == 2;
  static constexpr int kTiles = kHalf && kD <= 128 ? 2 : 1;  // 16-row tiles per warp; kTiles kD / 2 registers of output
  static constexpr int kWarps = kHalf ? (kD <= 128 ? 4 : 8) : (kD <= 128 ? 8 : 4);
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRows = kWarps * kTiles * 16;
  static constexpr int kCols = (kHalf ? kD != 128 : kD <= 128) ? 64 : 32;  // 32 where 64 would spill registers
  static constexpr int kBlocks = kThreads == 128 && kHalf ? 2 : 1;         // per multiprocessor
  static constexpr int kPitch = kD * static_cast<int>(sizeof(Elem)) + 16;
  static constexpr int kSteps = kD * static_cast<int>(sizeof(Elem)) / 32;
  static_assert(kBoundRows % kRows == 0 && kBoundRows % kCols == 0 && kD % 16 == 0 && kCols % 32 == 0);
};

template <typename Traits>
struct ChainedShared {
  alignas(16) unsigned char x[Traits::kRows * Traits::kPitch];
  alignas(16) unsigned char y[2][Traits::kCols * Traits::kPitch];
  alignas(8) Weight weight[2][Traits::kCols];
  float scale[2][Traits::kCols];
  uint32_t mask[Traits::kRows * Traits::kCols / 32];
  float slots[Traits::kWarps];
};

struct Chain {
  const Weight *x_weights, *y_weights;
  const float* bias;  // not null: sigmoid
  void* grad;
  float *row_dot, *row_total, *parts;
  int64_t splits;
  int d;
  bool grad_f32;
};

template <typename Traits, int kCount>
__device__ __forceinline__ void load_rows(unsigned char* tile, const Rows& rows, int64_t row0) {
  constexpr int kPieces = Traits::kSteps * 2;  // of 16 bytes in a padded row
  static_assert(kCount * kPieces % Traits::kThreads == 0);
#pragma unroll 4
  for (int at = threadIdx.x; at < kCount * kPieces; at += Traits::kThreads) {
    const int row = at / kPieces, byte = at % kPieces * 16;
    const bool valid = row0 + row < rows.count && byte < rows.bytes;
    copy16(tile + row * Traits::kPitch + byte, valid ? rows.data + (row0 + row) * rows.pitch + byte : rows.data, valid);
  }
}

template <typename Traits>
__device__ __forceinline__ void load_columns(ChainedShared<Traits>& s, int stage, const Pairs& p, const Chain& c,
                                             int64_t j0) {
  load_rows<Traits, Traits::kCols>(s.y[stage], p.y, j0);
  for (int at = threadIdx.x; at < Traits::kCols; at += Traits::kThreads) {
    const bool valid = j0 + at < p.y.count;
    const int64_t j = valid ? j0 + at : 0;
    if (c.y_weights != nullptr) copy_small<8>(&s.weight[stage][at], c.y_weights + j, valid);
    if (p.scale_col != 0) copy_small<4>(&s.scale[stage][at], p.scale + j * p.scale_col, valid);
  }
}

// acc[q][n] += rows (16 q ..) of X times row tiles n of Y.
template <typename Traits, int kN>
__device__ __forceinline__ void first_product(float (&acc)[Traits::kTiles][kN][4], const unsigned char* x,
                                              const unsigned char* y) {
  using Math = typename Traits::Math;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned char* xp = x + (warp * Traits::kTiles * 16 + lane % 16) * Traits::kPitch + lane / 16 * 16;
  const unsigned char* yp = y + (lane / 16 * 8 + lane % 8) * Traits::kPitch + lane / 8 % 2 * 16;
#pragma unroll 2
  for (int k = 0; k < Traits::kSteps; ++k) {
    typename Math::Operand4 left[Traits::kTiles];
#pragma unroll
    for (int q = 0; q < Traits::kTiles; ++q) {
      uint32_t raw[4];
      ldmatrix(raw, xp + q * 16 * Traits::kPitch + k * 32);
      left[q] = Math::operand(raw);
    }
#pragma unroll
    for (int n = 0; n < kN / 2; ++n) {
      uint32_t raw[4];
      ldmatrix(raw, yp + n * 16 * Traits::kPitch + k * 32);
      const typename Math::Operand4 right = Math::operand(raw);
#pragma unroll
      for (int q = 0; q < Traits::kTiles; ++q) {
        Math::multiply(acc[q][2 * n], left[q], right, 0);
        Math::multiply(acc[q][2 * n + 1], left[q], right, 1);
      }
    }
  }
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// out[q][f] += W (in the accumulator layout of S) times columns 8 f .. of Y.
template <typename Traits, int kN>
__device__ __forceinline__ void second_product(float (&out)[Traits::kTiles][Traits::kD / 8][4],
                                               const float (&w)[Traits::kTiles][kN][4], const unsigned char* y) {
  using Math = typename Traits::Math;
  const int lane = threadIdx.x % 32;
  if constexpr (Traits::kHalf) {
    // two 8-column tiles of S are the 16 x 16 left operand; matrices of Y: rows (0-7, 8-15) x two column tiles
    const unsigned char* yp = y + lane % 16 * Traits::kPitch + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < kN / 2; ++k) {
      typename Math::Operand4 left[Traits::kTiles];
#pragma unroll
      for (int q = 0; q < Traits::kTiles; ++q)
        left[q] = {{pack(w[q][2 * k][0], w[q][2 * k][1]), pack(w[q][2 * k][2], w[q][2 * k][3]),
                    pack(w[q][2 * k + 1][0], w[q][2 * k + 1][1]), pack(w[q][2 * k + 1][2], w[q][2 * k + 1][3])}};
#pragma unroll
      for (int f = 0; f < Traits::kD / 16; ++f) {
        uint32_t raw[4];
        ldmatrix_transposed(raw, yp + k * 16 * Traits::kPitch + f * 32);
        const typename Math::Operand4 right = Math::operand(raw);
#pragma unroll
        for (int q = 0; q < Traits::kTiles; ++q) {
          Math::multiply(out[q][2 * f], left[q], right, 0);
          Math::multiply(out[q][2 * f + 1], left[q], right, 1);
        }
      }
    }
  } else {
    // The k index of an 8-column tile may be permuted on both sides: slot t is column 2t, slot t + 4 column 2t + 1, so
    // that the accumulator is the left operand as it stands.
    const float* yp = reinterpret_cast<const float*>(y + lane % 4 * 2 * Traits::kPitch) + lane / 4;
    constexpr int kLine = Traits::kPitch / 4;
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      typename Math::Operand4 left[Traits::kTiles];
#pragma unroll
      for (int q = 0; q < Traits::kTiles; ++q) {
        const uint32_t raw[4] = {__float_as_uint(w[q][k][0]), __float_as_uint(w[q][k][2]), __float_as_uint(w[q][k][1]),
                                 __float_as_uint(w[q][k][3])};
        left[q] = Math::operand(raw);
      }
#pragma unroll
      for (int f = 0; f < Traits::kD / 16; ++f) {
        const float* at = yp + k * 8 * kLine + f * 16;
        const uint32_t raw[4] = {__float_as_uint(at[0]), __float_as_uint(at[kLine]), __float_as_uint(at[8]),
                                 __float_as_uint(at[kLine + 8])};
        const typename Math::Operand4 right = Math::operand(raw);
#pragma unroll
        for (int q = 0; q < Traits::kTiles; ++q) {
          Math::multiply(out[q][2 * f], left[q], right, 0);
          Math::multiply(out[q][2 * f + 1], left[q], right, 1);
        }
      }
    }
  }
}

}  // namespace sslspec::cuda

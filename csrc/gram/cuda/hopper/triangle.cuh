// A tile of a symmetric product of `gram`: which it is, and how it ends. Plain CUDA, so that the emulator runs it too.
//
// A tile under the diagonal stands for its mirror image: its squares count twice, and it is written twice. On the
// diagonal the whole tile is multiplied. A tile goes through shared memory, as it is and mirrored, so that both reach
// the matrix in rows of 384 bytes. Precision policy: squares of the fp32 accumulator, in fp32 over a warp, which has a
// slot in float64 of its own; no atomics; bfloat16 is rounded once, after the squares were taken.
//
// Accumulator: element e + 2 h + 4 n of a thread is row 64 group + 16 warp + lane / 4 + 8 h, column 8 n + 2 (lane % 4)
// + e.
#pragma once
#include <cuda_bf16.h>

#include "gpu/launch.h"
#include "gpu/reduce.cuh"
#include "gram/cuda/hopper/triangle.h"

namespace sslspec::cuda {

struct TriangleArgs {
  __nv_bfloat16* out;
  double* sums;
  int64_t side, tiles;  // of an operand
  bool masked;
};

inline TriangleArgs triangle_args(const TriangleProblem& p) {
  return {static_cast<__nv_bfloat16*>(p.out), p.sums, p.side(), triangle_tiles(p.side()), p.masked};
}

struct TrianglePlace {
  int64_t operand, row, column;  // row >= column, of tiles
  __device__ __forceinline__ TrianglePlace(const TriangleArgs& p, int64_t block) : operand(block / p.tiles), row(0) {
    column = block % p.tiles;
    while (column > row) column -= ++row;  // row r of the triangle holds r + 1 tiles
  }
  __device__ __forceinline__ bool on_diagonal() const { return row == column; }
};

struct TriangleShared {
  // rows 100 words apart: the 32 lanes of a store, 8 rows of 4 words or 8 columns of 4, meet all banks
  static constexpr int kPitch = TriangleTraits::kTile + 8;
  alignas(16) __nv_bfloat16 tile[TriangleTraits::kTile * kPitch], mirrored[TriangleTraits::kTile * kPitch];
};

// Rows from row0 on, columns from column0 on of the matrix, in pieces of 16 bytes.
__device__ __forceinline__ void copy_tile(const __nv_bfloat16* tile, __nv_bfloat16* matrix, int64_t side, int64_t row0,
                                          int64_t column0, int thread) {
  constexpr int kPiece = 8, kPieces = TriangleTraits::kTile / kPiece;
  for (int at = thread; at < TriangleTraits::kTile * kPieces; at += TriangleTraits::kThreads) {
    const int r = at / kPieces, c = at % kPieces * kPiece;
    if (row0 + r >= side || column0 + c >= side) continue;
    *reinterpret_cast<uint4*>(matrix + (row0 + r) * side + column0 + c) =
        *reinterpret_cast<const uint4*>(tile + r * TriangleShared::kPitch + c);
  }
}

// By kThreads threads, for whom `barrier` is. acc(k): element k of the accumulator, zeros beyond the matrix.
template <typename Accumulator, typename Barrier>
__device__ __forceinline__ void end_triangle_tile(const TriangleArgs& p, const TrianglePlace& at,
                                                  const Accumulator& acc, TriangleShared& s, int64_t block, int thread,
                                                  const Barrier& barrier) {
  constexpr int kTile = TriangleTraits::kTile, kSize = kTile * kTile / TriangleTraits::kThreads;
  const int lane = thread % 32, row = thread / 32 * 16 + lane / 4, column = lane % 4 * 2;
  const bool diagonal = at.on_diagonal(), masked = p.masked && diagonal;
  float sums[2] = {0, 0};
  barrier();  // what was in shared memory has been read
#pragma unroll
  for (int k = 0; k < kSize; k += 2) {
    const int r = row + k / 2 % 2 * 8, c = column + k / 4 * 8;
    const float left = masked && r == c ? 0.0f : acc(k), right = masked && r == c + 1 ? 0.0f : acc(k + 1);
    sums[0] = fmaf(left, left, sums[0]), sums[1] = fmaf(right, right, sums[1]);
    const __nv_bfloat162 both = __floats2bfloat162_rn(left, right);
    *reinterpret_cast<__nv_bfloat162*>(s.tile + r * TriangleShared::kPitch + c) = both;
    if (diagonal) continue;
    s.mirrored[c * TriangleShared::kPitch + r] = both.x;
    s.mirrored[(c + 1) * TriangleShared::kPitch + r] = both.y;
  }
  const float sum = warp_sum(sums[0] + sums[1]);
  if (lane == 0)
    p.sums[block * TriangleTraits::kWarps + thread / 32] = static_cast<double>(sum) * (diagonal ? 1.0 : 2.0);
  barrier();
  __nv_bfloat16* matrix = p.out + at.operand * p.side * p.side;
  copy_tile(s.tile, matrix, p.side, at.row * kTile, at.column * kTile, thread);
  if (!diagonal) copy_tile(s.mirrored, matrix, p.side, at.column * kTile, at.row * kTile, thread);
}

}  // namespace sslspec::cuda

// The symmetric products of `gram` on Hopper, where the operands are bfloat16: only tiles on and under the diagonal are
// multiplied, and none leaves the GPU's registers as float. triangle_sm90a.cu has the products, triangle.cuh how a tile
// ends, which the emulator runs too.
#pragma once
#include <cstdint>

namespace sslspec::cuda {

struct TriangleTraits {
  static constexpr int kTile = 192, kGroups = 3, kGroup = 128;  // groups of 128 threads own 64 rows of a tile each
  static constexpr int kThreads = kGroups * kGroup, kWarps = kThreads / 32;
};

inline int64_t triangle_tiles(int64_t side) {
  const int64_t rows = (side + TriangleTraits::kTile - 1) / TriangleTraits::kTile;
  return rows * (rows + 1) / 2;
}

struct TriangleProblem {
  const void* factors;  // [operands, rows, d] bfloat16, dense; d a multiple of 8
  int64_t operands, rows, d;
  bool columns;  // F^T F, of side d; otherwise F F^T, of side `rows`
  bool masked;   // without the diagonal
  void* out;     // [operands, side, side] bfloat16; side a multiple of 8
  double* sums;  // of squares: [operands, triangle_tiles(side), kWarps]
  int device;
  int64_t stream;
  int64_t side() const { return columns ? d : rows; }
};

void gram_triangle_sm90a(const TriangleProblem& p);

}  // namespace sslspec::cuda

// How the rows of a tile of TilePipe end: each warp has a quarter of the columns, so that four have a part of each row.
#pragma once
#include "gpu/tile_sm80.cuh"

namespace sslspec::cuda {

template <typename T>
using RowQuarters = T[4][TileTraits::kRows];  // in shared memory

// of_quad(m, h): what the four lanes have of a row, in each of them. All threads call it, and meet before the rows are
// read.
template <typename T, typename OfQuad>
__device__ __forceinline__ void store_quarters(RowQuarters<T>& quarters, const OfQuad& of_quad) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const T part = of_quad(m, h);
      if (threadIdx.x % 4 == 0) quarters[threadIdx.x / 32 % 4][TilePipe::row_of(m, h)] = part;
    }
}

// total and then the quarters of row threadIdx.x, in order.
template <typename T, typename Combine>
__device__ __forceinline__ T over_quarters(const RowQuarters<T>& quarters, T total, const Combine& combine) {
#pragma unroll
  for (int w = 0; w < 4; ++w) total = combine(total, quarters[w][threadIdx.x]);
  return total;
}

}  // namespace sslspec::cuda

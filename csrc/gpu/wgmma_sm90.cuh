// Products of slices of operands in shared memory, on wgmma by a warpgroup.
#pragma once
#include <cute/tensor.hpp>

namespace sslspec::cuda {

// Starts acc = x y^T, or acc += where mma accumulates, and lets it accumulate from then on. x, y: descriptors
// (MMA, MMA_M, MMA_K).
template <typename Mma, typename X, typename Y, typename Accumulator>
__device__ __forceinline__ void start_products(Mma& mma, const X& x, const Y& y, Accumulator& acc) {
  using namespace cute;
  warpgroup_fence_operand(acc);
  warpgroup_arrive();
#pragma unroll
  for (int step = 0; step < size<2>(x); ++step) {
    gemm(mma, x(_, _, step), y(_, _, step), acc);
    mma.accumulate_ = GMMA::ScaleOut::One;
  }
  warpgroup_commit_batch();
}

}  // namespace sslspec::cuda

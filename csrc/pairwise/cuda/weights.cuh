// How the portable kernels store a tile of weights: in the type of the operands, or as three bfloat16 pieces.
#pragma once
#include <type_traits>

#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {

template <typename MathMode, int kPieceCount>
struct WeightsTraits {
  using Math = MathMode;
  static constexpr int kPieces = kPieceCount;
  using Elem = std::conditional_t<kPieces == 1, typename Math::Elem, __nv_bfloat16>;
  static constexpr int kSpan = 8;
  static constexpr int kBlocks = sizeof(typename Math::Operand4) > 16 ? 1 : 2;
};

__device__ __forceinline__ void store_pair(__nv_bfloat16* at, float a, float b, bool both, bool aligned) {
  if (both && aligned) {
    *reinterpret_cast<__nv_bfloat162*>(at) = __floats2bfloat162_rn(a, b);
    return;
  }
  at[0] = __float2bfloat16(a);
  if (both) at[1] = __float2bfloat16(b);
}
__device__ __forceinline__ void store_pair(float* at, float a, float b, bool both, bool aligned) {
  if (both && aligned) {
    *reinterpret_cast<float2*>(at) = make_float2(a, b);
    return;
  }
  at[0] = a;
  if (both) at[1] = b;
}

template <typename Traits>
__device__ __forceinline__ void store_pieces(typename Traits::Elem* at, int64_t step, float a, float b, bool both,
                                             bool aligned) {
  store_pair(at, a, b, both, aligned);
#pragma unroll
  for (int piece = 1; piece < Traits::kPieces; ++piece) {
    a -= __bfloat162float(__float2bfloat16(a)), b -= __bfloat162float(__float2bfloat16(b));  // exact
    store_pair(at + piece * step, a, b, both, aligned);
  }
}

}  // namespace sslspec::cuda

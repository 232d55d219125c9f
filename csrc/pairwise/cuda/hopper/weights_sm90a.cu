// The weights pass on Hopper: a CUTLASS warp-specialised GEMM (TMA, wgmma) whose epilogue takes the exponentials.
//
// Tiling: 128 x 128 x 64, cluster 1 x 2, ping-pong schedule: one warpgroup takes exponentials while the other
// multiplies. Measured on an H100 (4096 x 32768 x 512, one and two exponentials): 257 and 297 us; cooperative tiles of
// 128 x 256 take 300 and 337, the plain product 184. The accumulator never leaves the registers as logits: the visitor
// tree loads the row and column vectors and stores bfloat16 weights. Precision policy: fp32 accumulation and exponents;
// the weights are rounded once.
#include "gpu/tile_gemm_sm90.cuh"
#include "pairwise/cuda/hopper/hopper.h"

namespace sslspec::cuda {
namespace {

using namespace cute;
namespace fusion = cutlass::epilogue::fusion;

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// A branch for a whole fragment: one per element would keep two exponentials and two comparisons in every case.
template <typename Fragment>
struct PairWeight {
  CUTLASS_HOST_DEVICE Fragment operator()(const Fragment& dot, const Fragment& c, const Fragment& x_factor,
                                          const Fragment& x_shift, const Fragment& y_factor, const Fragment& y_shift,
                                          const Fragment& kind) const {
    Fragment w;
#if defined(__CUDA_ARCH__)
    if (kind[0] == kOneExponential) {
      CUTLASS_PRAGMA_UNROLL
      for (int k = 0; k < Fragment::kElements; ++k)
        w[k] = power_of_two(fmaf(dot[k], c[k], -x_shift[k])) * (x_factor[k] + y_factor[k]);
    } else if (kind[0] == kTwoExponentials) {
      CUTLASS_PRAGMA_UNROLL
      for (int k = 0; k < Fragment::kElements; ++k) {
        const float own = power_of_two(fmaf(dot[k], c[k], -x_shift[k])) * x_factor[k];
        w[k] = fmaf(power_of_two(fmaf(dot[k], c[k], -y_shift[k])), y_factor[k], own);
      }
    } else {
      CUTLASS_PRAGMA_UNROLL
      for (int k = 0; k < Fragment::kElements; ++k) {
        const float x = fmaf(dot[k], c[k], -x_shift[k]), e = power_of_two(-fabsf(x));  // neither branch overflows
        w[k] = __fdividef(x >= 0 ? x_factor[k] : x_factor[k] * e, 1.0f + e);
      }
    }
#endif
    return w;
  }
};

using VectorOfRows = fusion::Sm90ColBroadcast<0, GemmTile, float>;  // a value per row
using VectorOfColumns = fusion::Sm90RowBroadcast<0, GemmTile, float>;
using WeightsGemm =
    MatrixGemm<fusion::Sm90EVT<fusion::Sm90Compute<PairWeight, Elem, float, cutlass::FloatRoundStyle::round_to_nearest>,
                               fusion::Sm90AccFetch, VectorOfRows, VectorOfRows, VectorOfRows, VectorOfColumns,
                               VectorOfColumns, fusion::Sm90ScalarBroadcast<float>>>;

}  // namespace

void pairwise_weights_sm90a(const HopperWeights& p) {
  const DeviceGuard guard(p.device);
  auto arguments = gemm_arguments<WeightsGemm::Gemm>(p.x, p.ldx, p.y, p.ldy, p.rows, p.m, p.d);
  arguments.epilogue.thread = {{}, {p.c}, {p.x_factor}, {p.x_shift}, {p.y_factor}, {p.y_shift}, {{}, {p.kind}}, {}};
  WeightsGemm::launch("pairwise_weights_sm90a", arguments, p.out, p.pitch, p.device, p.stream);
}

}  // namespace sslspec::cuda

// The weights pass on Hopper: a CUTLASS warp-specialised GEMM (TMA, wgmma) whose epilogue takes the exponentials.
//
// Tiling: 128 x 128 x 64, cluster 1 x 2, ping-pong schedule: one warpgroup takes exponentials while the other
// multiplies. Measured on an H100 (4096 x 32768 x 512, one and two exponentials): 257 and 297 us; cooperative tiles of
// 128 x 256 take 300 and 337, the plain product 184. The accumulator never leaves the registers as logits: the visitor
// tree loads the row and column vectors and stores bfloat16 weights. Precision policy: fp32 accumulation and exponents;
// the weights are rounded once.
#include <cutlass/cutlass.h>

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "gpu/cutlass_launch.cuh"
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

struct WeightsTraits {
  using Elem = cutlass::bfloat16_t;
  using Tile = Shape<_128, _128, _64>;
  using Cluster = Shape<_1, _2, _1>;
  static constexpr int kAlign = 16 / sizeof(Elem);
  using Rows = fusion::Sm90ColBroadcast<0, Tile, float>;  // a value per row
  using Columns = fusion::Sm90RowBroadcast<0, Tile, float>;
  using Visitor =
      fusion::Sm90EVT<fusion::Sm90Compute<PairWeight, Elem, float, cutlass::FloatRoundStyle::round_to_nearest>,
                      fusion::Sm90AccFetch, Rows, Rows, Rows, Columns, Columns, fusion::Sm90ScalarBroadcast<float>>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, cutlass::layout::RowMajor, kAlign, Elem,
      cutlass::layout::RowMajor, kAlign, cutlass::epilogue::TmaWarpSpecialized, Visitor>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Elem, cutlass::layout::RowMajor, kAlign, Elem,
      cutlass::layout::ColumnMajor, kAlign, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelTmaWarpSpecializedPingpong>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

}  // namespace

void pairwise_weights_sm90a(const HopperWeights& p) {
  using Gemm = WeightsTraits::Gemm;
  using Elem = WeightsTraits::Elem;
  const DeviceGuard guard(p.device);
  typename Gemm::GemmKernel::StrideA stride_x{};
  typename Gemm::GemmKernel::StrideB stride_y{};
  typename Gemm::GemmKernel::StrideD stride_out{};
  get<0>(stride_x) = p.ldx, get<0>(stride_y) = p.ldy, get<0>(stride_out) = p.pitch;

  typename Gemm::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {p.rows, p.m, p.d, 1};
  arguments.mainloop.ptr_A = static_cast<const Elem*>(p.x), arguments.mainloop.dA = stride_x;
  arguments.mainloop.ptr_B = static_cast<const Elem*>(p.y), arguments.mainloop.dB = stride_y;
  arguments.epilogue.thread = {{}, {p.c}, {p.x_factor}, {p.x_shift}, {p.y_factor}, {p.y_shift}, {{}, {p.kind}}, {}};
  arguments.epilogue.ptr_D = static_cast<Elem*>(p.out), arguments.epilogue.dD = stride_out;
  launch_cutlass<Gemm>("pairwise_weights_sm90a", arguments, p.device, p.stream);
}

}  // namespace sslspec::cuda

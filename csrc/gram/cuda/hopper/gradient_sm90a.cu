// Gradients of VICReg on Hopper: a CUTLASS warp-specialised GEMM (TMA, wgmma), the matrix of an operand times its factors,
// whose epilogue completes the gradient.
//
// Tiling: 128 x 128 x 64, cluster 1 x 2, ping-pong: one warpgroup ends its tile while the other multiplies. The rows of
// both operands come by TMA, a part of a tile at a time, beside those of the product. Memory traffic: the factors and the
// matrix from L2, both operands once and the gradient once. Precision policy: fp32 accumulation; the gradient is rounded
// once, after the factor from above.
#include "gpu/tile_gemm_sm90.cuh"
#include "gram/cuda/gram.cuh"
#include "gram/cuda/hopper/gradient.h"

namespace sslspec::cuda {
namespace {

namespace fusion = cutlass::epilogue::fusion;
namespace detail = cutlass::epilogue::collective::detail;

template <typename Fragment>
struct EntryGradient {
  CUTLASS_HOST_DEVICE Fragment operator()(const Fragment& product, const Fragment& x, const Fragment& other,
                                          const Fragment& shift, const Fragment& diagonal, const Fragment& own,
                                          const Fragment& alpha, const Fragment& near, const Fragment& factor) const {
    Fragment g;
#if defined(__CUDA_ARCH__)
    CUTLASS_PRAGMA_UNROLL
    for (int k = 0; k < Fragment::kElements; ++k) {
      const float partner = widened(narrowed<__nv_bfloat16>(x[k] - shift[k]));
      g[k] = factor[k] * entry_gradient(product[k], partner, x[k], other[k],
                                        EntryTerms<float>{shift[k], diagonal[k], own[k]}, alpha[k], near[k]);
    }
#endif
    return g;
  }
};

using RowMajor = cutlass::layout::RowMajor;
using Descriptor = detail::EpilogueDescriptor<GemmTile, cutlass::epilogue::collective::EpilogueTileAuto, Elem, Elem,
                                              cutlass::epilogue::TmaWarpSpecialized>;
using OtherRows = detail::AuxLoadDescriptor<Descriptor, RowMajor, Elem>;
using Other =
    fusion::Sm90AuxLoad<OtherRows::Stages, typename Descriptor::EpilogueTile, Elem, typename OtherRows::Stride,
                        typename OtherRows::SmemLayoutAtom, typename OtherRows::CopyOpS2R>;
using VectorOfColumns = fusion::Sm90RowBroadcast<0, GemmTile, float>;
using Number = fusion::Sm90ScalarBroadcast<float>;
using GradientGemm = MatrixGemm<
    fusion::Sm90EVT<fusion::Sm90Compute<EntryGradient, Elem, float, cutlass::FloatRoundStyle::round_to_nearest>,
                    fusion::Sm90AccFetch, fusion::Sm90SrcFetch<Elem>, Other, VectorOfColumns, VectorOfColumns,
                    VectorOfColumns, Number, Number, Number>,
    Elem, RowMajor>;

}  // namespace

void gram_gradient_sm90a(const GradientProblem& p) {
  const DeviceGuard guard(p.device);
  GradientGemm::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {static_cast<int>(p.n), static_cast<int>(p.d), static_cast<int>(p.depth), 1};
  arguments.mainloop.ptr_A = static_cast<const Elem*>(p.left),
  arguments.mainloop.ptr_B = static_cast<const Elem*>(p.right);
  cute::get<0>(arguments.mainloop.dA) = p.depth, cute::get<1>(arguments.mainloop.dB) = p.d;
  arguments.epilogue.ptr_C = static_cast<const Elem*>(p.x), cute::get<0>(arguments.epilogue.dC) = p.ldx;
  typename Other::Arguments other{};
  other.ptr_aux = static_cast<const Elem*>(p.other), cute::get<0>(other.dAux) = p.ldother;
  arguments.epilogue.thread = {{},      {},          other,      {p.shift},        {p.diagonal},
                               {p.own}, {{p.alpha}}, {{p.near}}, {{}, {p.factor}}, {}};
  GradientGemm::launch("gram_gradient_sm90a", arguments, p.out, p.d, p.device, p.stream);
}

}  // namespace sslspec::cuda

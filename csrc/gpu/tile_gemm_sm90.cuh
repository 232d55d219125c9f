// What the CUTLASS GEMMs of the hopper folders share: 128 x 128 products of bfloat16 rows, warp-specialised (TMA, wgmma)
// and ping-pong, which end in an epilogue; and, for those whose epilogue is a visitor tree, the matrix that it stores.
#pragma once
#include <cutlass/cutlass.h>

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "gpu/cutlass_launch.cuh"

namespace sslspec::cuda {

using Elem = cutlass::bfloat16_t;
inline constexpr int kGemmTile = 128, kElemAlign = 16 / sizeof(Elem);
using GemmTile = cute::Shape<cute::Int<kGemmTile>, cute::Int<kGemmTile>, cute::_64>;

// Right: of the right operand, whose rows lie one below the other (RowMajor) or are columns of the product.
template <typename Cluster, typename Epilogue, typename Right = cutlass::layout::ColumnMajor>
struct TileGemm {
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Elem, cutlass::layout::RowMajor, kElemAlign, Elem, Right,
      kElemAlign, float, GemmTile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelTmaWarpSpecializedPingpong>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue>;
};

// Of rows x against rows y, d columns; pitches in elements.
template <typename Gemm>
typename Gemm::Arguments gemm_arguments(const void* x, int64_t ldx, const void* y, int64_t ldy, int64_t rows,
                                        int64_t columns, int64_t d) {
  typename Gemm::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(d), 1};
  arguments.mainloop.ptr_A = static_cast<const Elem*>(x), arguments.mainloop.ptr_B = static_cast<const Elem*>(y);
  cute::get<0>(arguments.mainloop.dA) = ldx, cute::get<0>(arguments.mainloop.dB) = ldy;
  return arguments;
}

// The epilogue of a visitor tree, from the accumulator and a matrix of type Source (or none) to a bfloat16 matrix.
template <typename Visitor, typename Source = void, typename Right = cutlass::layout::ColumnMajor>
struct MatrixGemm {
  using Cluster = cute::Shape<cute::_1, cute::_2, cute::_1>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, GemmTile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, Source, cutlass::layout::RowMajor, kElemAlign,
      Elem, cutlass::layout::RowMajor, kElemAlign, cutlass::epilogue::TmaWarpSpecialized, Visitor>::CollectiveOp;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<typename TileGemm<Cluster, Epilogue, Right>::Kernel>;
  using Arguments = typename Gemm::Arguments;

  static void launch(const char* kernel, Arguments arguments, void* out, int64_t pitch, int device, int64_t stream) {
    arguments.epilogue.ptr_D = static_cast<Elem*>(out), cute::get<0>(arguments.epilogue.dD) = pitch;
    launch_cutlass<Gemm>(kernel, arguments, device, stream);
  }
};

// What CUTLASS asks of the arguments of an epilogue, or of a node of one, that reach the kernel as they are and need no
// workspace.
template <typename EpilogueArguments>
struct PlainArguments {
  using Arguments = EpilogueArguments;
  using Params = Arguments;

  template <typename Shape>
  static constexpr Params to_underlying_arguments(const Shape&, const Arguments& args, void*) {
    return args;
  }
  template <typename Shape>
  static bool can_implement(const Shape&, const Arguments&) {
    return true;
  }
  template <typename Shape>
  static size_t get_workspace_size(const Shape&, const Arguments&) {
    return 0;
  }
  template <typename Shape>
  static cutlass::Status initialize_workspace(const Shape&, const Arguments&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }
};

// What CUTLASS asks of a node of a visitor tree that keeps nothing in shared memory and reads nothing ahead. A node
// derives from it and has get_consumer_store_callbacks.
template <typename NodeArguments>
class VisitorNode : public PlainArguments<NodeArguments> {
 public:
  struct SharedStorage {};
  using typename PlainArguments<NodeArguments>::Params;

  CUTLASS_HOST_DEVICE VisitorNode() {}
  CUTLASS_HOST_DEVICE VisitorNode(const Params& params, const SharedStorage&) : params_(&params) {}
  CUTLASS_DEVICE bool is_producer_load_needed() const { return false; }
  CUTLASS_DEVICE bool is_C_load_needed() const { return false; }
  template <class... Args>
  CUTLASS_DEVICE auto get_producer_load_callbacks(const cutlass::epilogue::fusion::detail::ProducerLoadArgs<Args...>&) {
    return cutlass::epilogue::fusion::EmptyProducerLoadCallbacks{};
  }

 protected:
  const Params* params_ = nullptr;
};

}  // namespace sslspec::cuda

// The statistics pass on Hopper for wide rows (fewer columns: sums_sm90a.cu): a CUTLASS GEMM whose
// epilogue adds up the exponentials (or softplus) of its accumulator and stores only the sums of each tile
// (tile_sums.cuh).
//
// Tiling: 128 x 128 x 64, cluster 2 x 1, ping-pong: two warpgroups own a tile each, and one takes its exponentials
// while the other multiplies. Their epilogues come one after the other (CUTLASS's order barrier), so they share the
// memory below. A tile that can hold left-out pairs makes the same mask as the portable kernel. Memory traffic per
// tile: the operands from L2 and 256 sums. Precision policy: fp32 sums over a tile, which one kernel adds in the order
// of the tiles (statistics_sm80.cu); no atomics.
#include <cutlass/arch/barrier.h>
#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>

#include "gpu/tile_gemm_sm90.cuh"
#include "pairwise/cuda/hopper/hopper.h"
#include "pairwise/cuda/hopper/tile_sums.cuh"

namespace sslspec::cuda {
namespace {

struct TileSumsArguments {
  Pairs pairs;
  HopperStatistics out;
};

// An epilogue as CUTLASS's kernels call it, after Sm90TmaWarpSpecializedAdapter: with the accumulator of a whole tile.
class TileSums : public PlainArguments<TileSumsArguments> {
 public:
  using ElementC = float;
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using ElementD = ElementC;
  using StrideD = StrideC;
  using DispatchPolicy = cutlass::epilogue::NoSmemWarpSpecialized;
  struct ThreadEpilogueOp {
    using ElementOutput = float;
  };

  using SharedStorage = TileSumsShared;

  CUTLASS_HOST_DEVICE explicit TileSums(const Params& params) : params_(params) {}

  template <typename Problem, typename Tile, typename Coord, typename Accumulator, typename Mma, typename Residue>
  __device__ __forceinline__ void operator()(const Problem&, const Tile&, const Coord& tile, const Accumulator& acc,
                                             const Mma&, const Residue&, int thread, char* shared) {
    using Traits = TileSumsTraits;
    static_assert(decltype(cute::size(acc))::value == Traits::kTile * Traits::kTile / Traits::kThreads);
    const auto barrier = [] {
      cutlass::arch::NamedBarrier::sync(Traits::kThreads, cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);
    };
    store_tile_sums(params_.pairs, params_.out, cute::get<0>(tile), cute::get<1>(tile), acc,
                    *reinterpret_cast<SharedStorage*>(shared), thread, barrier);
  }

 private:
  const Params& params_;
};

struct StatisticsTraits {
  using Epilogue = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<TileSums>;
  using Plain = TileGemm<cute::Shape<cute::_2, cute::_1, cute::_1>, Epilogue>::Kernel;
  static_assert(Plain::SharedStorageSize <= cutlass::gemm::collective::detail::sm90_smem_capacity_bytes);

  // The shift goes to the epilogue through its shared memory; all blocks agree about it.
  struct Kernel : Plain {
    __device__ __forceinline__ void operator()(const typename Plain::Params& params, char* shared) {
      if (is_done(params.epilogue.pairs)) return;  // all blocks, before the first barrier of a cluster
      auto& s = reinterpret_cast<typename Plain::SharedStorage*>(shared)->tensors.epilogue;
      static_assert(sizeof(s.slots) / sizeof(float) == Plain::MaxThreadsPerBlock / 32);
      const CommonShift shift = common_shift<Plain::MaxThreadsPerBlock / 32>(params.epilogue.pairs, s.slots);
      if (threadIdx.x == 0) s.shift = shift;
      __syncthreads();
      Plain::operator()(params, shared);
    }
  };
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
};

}  // namespace

void pairwise_statistics_sm90a(const PairwiseProblem& p, const HopperStatistics& out) {
  using Gemm = StatisticsTraits::Gemm;
  const DeviceGuard guard(p.device);
  const Pairs pairs = pairs_of(p);
  auto arguments = gemm_arguments<Gemm>(pairs.x.data + out.row0 * pairs.x.pitch, p.x.stride[0],
                                        pairs.y.data + out.col0 * pairs.y.pitch, p.y.stride[0], out.rows,
                                        p.y.shape[0] - out.col0, p.x.shape[1]);
  arguments.epilogue = {pairs, out};
  launch_cutlass<Gemm>("pairwise_statistics_sm90a", arguments, p.device, p.stream);
}

}  // namespace sslspec::cuda

// Value and weights of the sigmoid loss on Hopper: a CUTLASS warp-specialised GEMM (TMA, wgmma) whose epilogue makes
// both from one exponential, stores the weights in bfloat16 and the sums of each tile.
//
// Tiling: 128 x 128 x 64, cluster 1 x 2, ping-pong, as weights_sm90a.cu. Only tiles on the diagonal, which holds the
// positives, and beyond the last row or column compare indices. Memory traffic: a write of W, the operands from L2, and
// 48 bytes a tile. Precision policy: fp32 sums over the 128 pairs of a thread and over a warp, without atomics; the
// weights are rounded once, after they were added up.
#include "gpu/tile_gemm_sm90.cuh"
#include "pairwise/cuda/hopper/hopper.h"
#include "pairwise/cuda/sigmoid.cuh"

namespace sslspec::cuda {
namespace {

using namespace cute;
namespace fusion = cutlass::epilogue::fusion;

constexpr int kTile = kGemmTile;
static_assert(kTile == TileTraits::kRows && kSigmoidSlots == 4);  // warps of a warpgroup, which owns a tile

struct SigmoidArguments {
  const float *scale, *bias;
  float number, offset;
  int row0;  // of the chunk
  SigmoidSums* sums;
};

// A node of the visitor tree: from the accumulator and the factors of the rows to the weights.
class SigmoidNode : public VisitorNode<SigmoidArguments> {
 public:
  using VisitorNode::VisitorNode;

  template <typename Coords, typename Residue>
  struct Callbacks : fusion::EmptyConsumerStoreCallbacks {
    Coords coords;    // of the thread's pairs, relative to its first
    Residue residue;  // rows and columns that remain from there
    int positive;     // row - column, relative, of the positives
    bool compares;    // indices: a tile on the diagonal, or at the end
    float scale, bias;
    SigmoidSums* slot;  // of the warp, or null
    SigmoidTotals totals{};

    CUTLASS_DEVICE Callbacks(Coords coords, Residue residue, int positive, bool compares, float scale, float bias,
                             SigmoidSums* slot)
        : coords(coords), residue(residue), positive(positive), compares(compares), scale(scale), bias(bias),
          slot(slot) {}

    template <typename Accumulator, int kSize>
    CUTLASS_DEVICE cutlass::Array<Elem, kSize> visit(const cutlass::Array<Accumulator, kSize>& dot, int epi_v,
                                                     int epi_m, int epi_n, const cutlass::Array<float, kSize>& factor) {
      cutlass::Array<float, kSize> w;
      if (!compares) {
        CUTLASS_PRAGMA_UNROLL
        for (int k = 0; k < kSize; ++k) {
          const SigmoidPair pair = negative_pair(fmaf(dot[k], scale, bias));
          w[k] = factor[k] * pair.weight;
          totals.add(pair, factor[k], dot[k]);
        }
      } else {
        const auto at = coords(_, _, _, epi_m, epi_n);
        CUTLASS_PRAGMA_UNROLL
        for (int k = 0; k < kSize; ++k) {
          const auto place = at(epi_v * kSize + k);
          const float logit = fmaf(dot[k], scale, bias);
          const bool on = get<0>(place) - get<1>(place) == positive;
          const SigmoidPair pair = on ? positive_pair(logit) : negative_pair(logit);
          w[k] = factor[k] * pair.weight;
          if (elem_less(place, residue)) totals.add(pair, factor[k], dot[k]);
        }
      }
      return cutlass::NumericArrayConverter<Elem, float, kSize>{}(w);
    }

    CUTLASS_DEVICE void end() {
      if (slot != nullptr) store_totals(totals, slot);
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const fusion::detail::ConsumerStoreArgs<Args...>& args) {
    const auto [rows, columns, depth, batch] = args.problem_shape_mnkl;
    const auto [tile_row, tile_column, tile_depth, tile_batch] = args.tile_coord_mnkl;
    const int i0 = params_->row0 + tile_row * kTile, j0 = tile_column * kTile;
    // row0 + (rows - residue) + relative row = (columns - residue) + relative column
    const int positive = columns - get<1>(args.residue_tCcD) - (params_->row0 + rows - get<0>(args.residue_tCcD));
    const bool compares = i0 == j0 || (tile_row + 1) * kTile > rows || j0 + kTile > columns;
    const int64_t tile = static_cast<int64_t>(tile_row) * ceil_div(columns, kTile) + tile_column;
    // a cluster may reach beyond the problem, where there are no slots
    const bool inside = tile_row * kTile < rows && j0 < columns;
    SigmoidSums* slot = inside ? params_->sums + tile * kSigmoidSlots + args.thread_idx / 32 : nullptr;
    return Callbacks<decltype(args.tCcD), decltype(args.residue_tCcD)>(args.tCcD, args.residue_tCcD, positive, compares,
                                                                       number_or(params_->scale, params_->number),
                                                                       number_or(params_->bias, params_->offset), slot);
  }
};

using SigmoidGemm =
    MatrixGemm<fusion::Sm90EVT<SigmoidNode, fusion::Sm90ColBroadcast<0, GemmTile, float>>>;  // a factor per row

}  // namespace

void pairwise_sigmoid_sm90a(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums) {
  const DeviceGuard guard(p.device);
  auto arguments =
      gemm_arguments<SigmoidGemm::Gemm>(static_cast<const Elem*>(p.x.data) + w.row0 * p.x.stride[0], p.x.stride[0],
                                        p.y.data, p.y.stride[0], w.rows, p.y.shape[0], p.x.shape[1]);
  const float* factors = p.row_factor == nullptr ? nullptr : p.row_factor + w.row0;
  arguments.epilogue.thread = {{factors, 1.0f, {}},
                               {p.scale, p.bias, p.number, p.offset, static_cast<int>(w.row0), sums}};
  SigmoidGemm::launch("pairwise_sigmoid_sm90a", arguments, w.data, w.pitch, p.device, p.stream);
}

}  // namespace sslspec::cuda

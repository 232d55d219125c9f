// Exponentials of rows and their row sums in one visit on Hopper (exponentials.cuh): a CUTLASS warp-specialised GEMM
// (TMA, wgmma) whose epilogue takes the exponentials, stores them in bfloat16 and the row sums of each tile.
//
// Tiling: 128 x 128 x 64, cluster 1 x 2, ping-pong, as weights_sm90a.cu. Only tiles on the diagonal, whose pairs are
// left out, and beyond the last column compare indices. Memory traffic: a write of the matrix, the operands from L2, and
// 512 bytes a tile. Precision policy: fp32 exponents and sums, over the 32 pairs that a thread has of a row and over the
// four threads that share it, without atomics; the exponentials are rounded once, after they were added up.
#include "gpu/tile_gemm_sm90.cuh"
#include "pairwise/cuda/hopper/hopper.h"
#include "pairwise/cuda/exponentials.cuh"

namespace sslspec::cuda {
namespace {

using namespace cute;
namespace fusion = cutlass::epilogue::fusion;

constexpr int kTile = kGemmTile;
static_assert(kTile == TileTraits::kRows);

struct ExponentialArguments {
  const float *scale, *shift;
  int row0;  // of the chunk
  bool skip_self;
  float* sums;  // [rows, tiles of columns]
};

// A node of the visitor tree: from the accumulator to the exponentials.
class ExponentialNode : public VisitorNode<ExponentialArguments> {
 public:
  using VisitorNode::VisitorNode;

  template <typename Coords, typename Residue>
  struct Callbacks : fusion::EmptyConsumerStoreCallbacks {
    Coords coords;    // of the thread's pairs, relative to its first
    Residue residue;  // rows and columns that remain from there
    int left_out;     // row - column, relative, of the pairs that are
    bool compares;    // indices: a tile on the diagonal, or at the end
    float scale, shift;
    float* out;           // of the thread's first row, or null
    int64_t slots;        // of a row
    float total[4] = {};  // of the thread's rows: 0, 8, 64 and 72 below its first

    CUTLASS_DEVICE Callbacks(Coords coords, Residue residue, int left_out, bool compares, float scale, float shift,
                             float* out, int64_t slots)
        : coords(coords), residue(residue), left_out(left_out), compares(compares), scale(scale), shift(shift),
          out(out), slots(slots) {}

    template <typename Accumulator, int kSize>
    CUTLASS_DEVICE cutlass::Array<Elem, kSize> visit(const cutlass::Array<Accumulator, kSize>& dot, int epi_v,
                                                     int epi_m, int epi_n) {
      cutlass::Array<float, kSize> e;
      CUTLASS_PRAGMA_UNROLL
      for (int k = 0; k < kSize; ++k) e[k] = exp2_fast(fmaf(dot[k], scale, -shift));
      const auto at = coords(_, _, _, epi_m, epi_n);
      if (compares) {
        CUTLASS_PRAGMA_UNROLL
        for (int k = 0; k < kSize; ++k) {
          const auto place = at(epi_v * kSize + k);
          if (get<0>(place) - get<1>(place) == left_out || !(get<1>(place) < get<1>(residue))) e[k] = 0.0f;
        }
      }
      CUTLASS_PRAGMA_UNROLL
      for (int k = 0; k < kSize; ++k) {
        const int row = get<0>(at(epi_v * kSize + k));
        total[row / 64 * 2 + row % 64 / 8] += e[k];
      }
      return cutlass::NumericArrayConverter<Elem, float, kSize>{}(e);
    }

    CUTLASS_DEVICE void end() {
      CUTLASS_PRAGMA_UNROLL
      for (int q = 0; q < 4; ++q) {
        const float sum = quad_sum(total[q]);
        const int row = q / 2 * 64 + q % 2 * 8;
        if (threadIdx.x % 4 == 0 && out != nullptr && row < get<0>(residue)) out[row * slots] = sum;
      }
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const fusion::detail::ConsumerStoreArgs<Args...>& args) {
    const auto [rows, columns, depth, batch] = args.problem_shape_mnkl;
    const auto [tile_row, tile_column, tile_depth, tile_batch] = args.tile_coord_mnkl;
    const int i0 = params_->row0 + tile_row * kTile, j0 = tile_column * kTile;
    const int row = rows - get<0>(args.residue_tCcD), column = columns - get<1>(args.residue_tCcD);  // the first
    const int left_out = params_->skip_self ? column - (params_->row0 + row) : INT_MAX;
    const bool compares = (params_->skip_self && i0 == j0) || j0 + kTile > columns;
    const int64_t slots = ceil_div(columns, kTile);
    // a cluster may reach beyond the problem, where there are no slots
    float* out = tile_row * kTile < rows && j0 < columns ? params_->sums + row * slots + tile_column : nullptr;
    return Callbacks<decltype(args.tCcD), decltype(args.residue_tCcD)>(
        args.tCcD, args.residue_tCcD, left_out, compares, *params_->scale * kLog2e, *params_->shift, out, slots);
  }
};

using ExponentialsGemm = MatrixGemm<fusion::Sm90EVT<ExponentialNode>>;

}  // namespace

void pairwise_exponentials_sm90a(const PairwiseProblem& p, const WeightRows& w, float* workspace) {
  const DeviceGuard guard(p.device);
  const Exponentials to(workspace, w.rows, p.y.shape[0]);

  auto arguments =
      gemm_arguments<ExponentialsGemm::Gemm>(static_cast<const Elem*>(p.x.data) + w.row0 * p.x.stride[0], p.x.stride[0],
                                             p.y.data, p.y.stride[0], w.rows, p.y.shape[0], p.x.shape[1]);
  arguments.epilogue.thread = {
      {static_cast<const float*>(p.scale), to.shift, static_cast<int>(w.row0), p.skip_self, to.sums}};
  ExponentialsGemm::launch("pairwise_exponentials_sm90a", arguments, w.data, w.pitch, p.device, p.stream);
}

}  // namespace sslspec::cuda

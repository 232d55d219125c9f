// Symmetric products of `gram` on Hopper: the tiles of F F^T or F^T F on and under the diagonal, both operands in one
// launch, on TMA and wgmma; triangle.cuh ends each tile.
//
// Tiling: a block per tile of 192 x 192. One warp brings slices of 64 of the sum by TMA, 192 rows for either side (on
// the diagonal one serves both), through a ring of four. Three warpgroups own 64 rows each. 192 because 2048 rows, of
// two operands, then make 132 tiles, as many as an H100 or H200 has multiprocessors, where tiles of 128 make 272, and
// the library's 128 x 256 are 256 for the whole matrix: 2.25 tiles of 128 x 128 in the longest of them against 3 and 4.
// The sum is long (the side is the shorter one), so that a tile's start and end, which nothing hides, are short.
//
// Memory traffic: the factors once per row of tiles, from L2 (43 bytes a clock and multiprocessor), and one write of the
// matrix in bfloat16. Precision policy: fp32 accumulation of bfloat16 products.
#include <cute/tensor.hpp>
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include "gpu/copy.cuh"
#include "gpu/wgmma_sm90.cuh"
#include "gram/cuda/hopper/triangle.cuh"

namespace sslspec::cuda {
namespace {

using Elem = cutlass::bfloat16_t;
using FullBarrier = cutlass::arch::ClusterTransactionBarrier;
using EmptyBarrier = cutlass::arch::ClusterBarrier;

constexpr int kTile = TriangleTraits::kTile, kSlice = 64, kStages = 4, kSliceBytes = kTile * kSlice * sizeof(Elem);
constexpr int kThreads = TriangleTraits::kThreads + TriangleTraits::kGroup;

using Tile = cute::Int<kTile>;
using Slice = cute::Int<kSlice>;

// kColumns: the sides of F^T F lie along the rows of F, so that the sum is the slower index ("MN-major").
template <bool kColumns>
struct Layouts {
  static constexpr auto kMajor = kColumns ? cute::GMMA::Major::MN : cute::GMMA::Major::K;
  using Atom =
      std::conditional_t<kColumns, cute::GMMA::Layout_MN_SW128_Atom<Elem>, cute::GMMA::Layout_K_SW128_Atom<Elem>>;
  using Order =
      std::conditional_t<kColumns, cute::Step<cute::_2, cute::_1, cute::_3>, cute::Step<cute::_1, cute::_2, cute::_3>>;
  using Ring = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Tile, Slice, cute::Int<kStages>>{}, Order{}));
  using OfSlice = decltype(Ring{}(cute::_, cute::_, cute::Int<0>{}));
  using Mma = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Elem, Elem, float, cute::Shape<Tile, Tile, Slice>, kMajor, kMajor>(),
      cute::Layout<cute::Shape<cute::Int<TriangleTraits::kGroups>, cute::_1, cute::_1>>{}));
  using Stride =
      std::conditional_t<kColumns, cute::Stride<cute::_1, int64_t, int64_t>, cute::Stride<int64_t, cute::_1, int64_t>>;

  static auto tma_of(const TriangleProblem& p) {
    const int rows = static_cast<int>(p.rows), d = static_cast<int>(p.d);
    Stride stride{};
    cute::get<kColumns ? 1 : 0>(stride) = p.d, cute::get<2>(stride) = p.rows * p.d;
    const auto shape = cute::make_shape(kColumns ? d : rows, kColumns ? rows : d, static_cast<int>(p.operands));
    return cute::make_tma_copy(
        cute::SM90_TMA_LOAD{},
        cute::make_tensor(cute::make_gmem_ptr(static_cast<const Elem*>(p.factors)), cute::make_layout(shape, stride)),
        OfSlice{}, cute::Shape<Tile, Slice>{}, cute::_1{});
  }
  using Tma = decltype(tma_of(std::declval<const TriangleProblem&>()));
};

struct Shared {
  union {
    struct {
      alignas(1024) Elem x[kStages * kTile * kSlice];
      alignas(1024) Elem y[kStages * kTile * kSlice];
    } ring;
    TriangleShared ends;
  };
  uint64_t full[kStages], empty[kStages];
};

template <bool kColumns>
struct Args {
  typename Layouts<kColumns>::Tma tma;
  TriangleArgs triangle;
  int side, depth, operands, slices;
};

template <bool kColumns>
__device__ __forceinline__ void produce(const Args<kColumns>& a, const TrianglePlace& at, Shared& s) {
  using namespace cute;
  auto slices =
      local_tile(a.tma.get_tma_tensor(make_shape(a.side, a.depth, a.operands)), Shape<Tile, Slice>{}, make_coord(_, _));
  auto sx = make_tensor(make_smem_ptr(s.ring.x), typename Layouts<kColumns>::Ring{});
  auto sy = make_tensor(make_smem_ptr(s.ring.y), typename Layouts<kColumns>::Ring{});
  auto [gx, tx] = tma_partition(a.tma, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(sx), group_modes<0, 2>(slices));
  auto [gy, ty] = tma_partition(a.tma, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(sy), group_modes<0, 2>(slices));
  const int row = static_cast<int>(at.row), column = static_cast<int>(at.column), o = static_cast<int>(at.operand);
  for (int k = 0; k < a.slices; ++k) {
    const int stage = k % kStages;
    EmptyBarrier::wait(&s.empty[stage], k / kStages % 2 ^ 1);  // the first round finds them free
    FullBarrier::arrive_and_expect_tx(&s.full[stage], at.on_diagonal() ? kSliceBytes : 2 * kSliceBytes);
    copy(a.tma.with(s.full[stage]), gx(_, row, k, o), tx(_, stage));
    if (!at.on_diagonal()) copy(a.tma.with(s.full[stage]), gy(_, column, k, o), ty(_, stage));
  }
}

template <bool kColumns>
__device__ __forceinline__ void consume(const Args<kColumns>& a, const TrianglePlace& at, Shared& s) {
  using namespace cute;
  const int thread = threadIdx.x - TriangleTraits::kGroup, lane = thread % 32;
  auto sx = make_tensor(make_smem_ptr(s.ring.x), typename Layouts<kColumns>::Ring{});
  auto sy = make_tensor(make_smem_ptr(at.on_diagonal() ? s.ring.x : s.ring.y), typename Layouts<kColumns>::Ring{});
  typename Layouts<kColumns>::Mma mma;
  auto part = mma.get_thread_slice(thread);
  auto fx = part.make_fragment_A(part.partition_A(sx));  // (MMA, MMA_M, MMA_K, stage), descriptors
  auto fy = part.make_fragment_B(part.partition_B(sy));
  auto acc = partition_fragment_C(mma, Shape<Tile, Tile>{});
  static_assert(decltype(size(acc))::value == kTile * kTile / TriangleTraits::kThreads);
  mma.accumulate_ = GMMA::ScaleOut::Zero;
  for (int k = 0; k < a.slices; ++k) {
    const int stage = k % kStages;
    FullBarrier::wait(&s.full[stage], k / kStages % 2);
    start_products(mma, fx(_, _, _, stage), fy(_, _, _, stage), acc);
    if (k == 0) continue;
    warpgroup_wait<1>();  // the products with the slice before
    if (lane == 0) EmptyBarrier::arrive(&s.empty[(k - 1) % kStages]);
  }
  warpgroup_wait<0>();
  warpgroup_fence_operand(acc);
  end_triangle_tile(a.triangle, at, acc, s.ends, blockIdx.x, thread,
                    [] { cutlass::arch::NamedBarrier::sync(TriangleTraits::kThreads, 1); });
}

template <bool kColumns>
__global__ void __launch_bounds__(kThreads, 1) triangle_kernel(const __grid_constant__ Args<kColumns> a) {
  const auto base = (reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) / 1024 * 1024;
  Shared& s = *reinterpret_cast<Shared*>(base);
  const TrianglePlace at(a.triangle, blockIdx.x);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      FullBarrier::init(&s.full[stage], 1);
      EmptyBarrier::init(&s.empty[stage], TriangleTraits::kWarps);  // a lane of each warp
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < TriangleTraits::kGroup) {
    cutlass::arch::warpgroup_reg_dealloc<32>();
    if (threadIdx.x == 0) produce(a, at, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<160>();
    consume(a, at, s);
  }
}

template <bool kColumns>
void launch_triangle(const TriangleProblem& p) {
  const int depth = static_cast<int>(kColumns ? p.rows : p.d);
  const Args<kColumns> args = {Layouts<kColumns>::tma_of(p), triangle_args(p),
                               static_cast<int>(p.side()),   depth,
                               static_cast<int>(p.operands), static_cast<int>(ceil_div(depth, kSlice))};
  launch("gram_triangle_sm90a", triangle_kernel<kColumns>,
         dim3(static_cast<unsigned>(args.triangle.tiles * p.operands)), kThreads, sizeof(Shared) + 1024, p.stream,
         args);
}

}  // namespace

void gram_triangle_sm90a(const TriangleProblem& p) {
  const DeviceGuard guard(p.device);
  p.columns ? launch_triangle<true>(p) : launch_triangle<false>(p);
}

}  // namespace sslspec::cuda

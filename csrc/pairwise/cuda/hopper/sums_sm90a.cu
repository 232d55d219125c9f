// The statistics pass on Hopper for bfloat16 rows of up to 512 columns: row and column sums of the exponentials, or row
// sums of softplus, of a super block at a time (sums.cuh). Wider rows: statistics_sm90a.cu.
//
// Tiling. A block owns 128 rows of X at a time, which stay in shared memory while the tiles of a strip of Y pass. One
// warp brings both by TMA in slices of 64 columns: X to 8 slots (two rows of tiles up to 256 columns), Y through a ring
// of four. Two warpgroups own 64 rows each, run S = X Y^T on wgmma and take the exponentials in the accumulator
// registers.
//
// Memory traffic per tile: 128 rows of Y from L2. Precision policy: fp32 accumulation, exponents and sums; every sum
// has one order, no atomics.
#include <cute/tensor.hpp>
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include "gpu/wgmma_sm90.cuh"
#include "pairwise/cuda/hopper/sums.cuh"

namespace sslspec::cuda {
namespace {

using Elem = cutlass::bfloat16_t;
using FullBarrier = cutlass::arch::ClusterTransactionBarrier;
using EmptyBarrier = cutlass::arch::ClusterBarrier;

constexpr int kTile = SumsTraits::kTile, kSlice = 64, kSlots = 8, kStages = 4,
              kSliceBytes = kTile * kSlice * sizeof(Elem);
constexpr int kThreads = (SumsTraits::kGroups + 1) * SumsTraits::kGroup;

using Tile = cute::Int<kTile>;
using Slice = cute::Int<kSlice>;
using Atom = cute::GMMA::Layout_K_SW128_Atom<Elem>;
using LayoutSlice = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Tile, Slice>{}));
using LayoutX = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Tile, Slice, cute::Int<kSlots>>{}));
using LayoutY = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Tile, Slice, cute::Int<kStages>>{}));
using Mma =
    decltype(cute::make_tiled_mma(cute::GMMA::ss_op_selector<Elem, Elem, float, cute::Shape<Tile, Tile, Slice>>(),
                                  cute::Layout<cute::Shape<cute::Int<SumsTraits::kGroups>, cute::_1, cute::_1>>{}));

auto source(const void* data, int rows, int d, int64_t ld) {
  return cute::make_tensor(cute::make_gmem_ptr(static_cast<const Elem*>(data)), cute::make_shape(rows, d),
                           cute::make_stride(ld, cute::_1{}));
}
auto tma_of(const void* data, int rows, int d, int64_t ld) {
  return cute::make_tma_copy(cute::SM90_TMA_LOAD{}, source(data, rows, d, ld), LayoutSlice{},
                             cute::Shape<Tile, Slice>{}, cute::_1{});
}
using Tma = decltype(tma_of(nullptr, 0, 0, 0));

struct Shared {
  alignas(1024) Elem x[kSlots * kTile * kSlice];
  alignas(1024) Elem y[kStages * kTile * kSlice];
  SumsShared sums;
  uint64_t x_full[2], x_empty[2], full[kStages], empty[kStages];
};

struct Args {
  Tma tma_x, tma_y;
  Pairs pairs;
  SumsArgs sums;
  int d;
};

struct Rows {  // of X in shared memory: slices of a row of tiles, and how many rows of tiles there is room for
  int slices, buffers;
  __device__ explicit Rows(int d) : slices((d + kSlice - 1) / kSlice), buffers(slices <= kSlots / 2 ? 2 : 1) {}
  __device__ int buffer(int row) const { return row % buffers; }
  __device__ uint32_t phase(int row) const { return row / buffers % 2; }
};

__device__ __forceinline__ void produce(const Args& a, const SumsPlan& plan, Shared& s) {
  using namespace cute;
  const auto slices_of = [&](const Tma& tma, int64_t count) {
    return local_tile(tma.get_tma_tensor(make_shape(static_cast<int>(count), a.d)), Shape<Tile, Slice>{},
                      make_coord(_, _));
  };
  auto x = slices_of(a.tma_x, a.pairs.x.count), y = slices_of(a.tma_y, a.pairs.y.count);
  auto sx = make_tensor(make_smem_ptr(s.x), LayoutX{});
  auto sy = make_tensor(make_smem_ptr(s.y), LayoutY{});
  auto [gx, tx] = tma_partition(a.tma_x, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(sx), group_modes<0, 2>(x));
  auto [gy, ty] = tma_partition(a.tma_y, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(sy), group_modes<0, 2>(y));
  const Rows rows(a.d);
  int loaded = 0, count = 0;  // rows of tiles, slices of Y
  for (int64_t strip = plan.y_begin; strip < plan.y_end; strip += SumsTraits::kStrip)
    for (int64_t row = plan.x_begin; row < plan.rows_end(strip); ++row, ++loaded) {
      const int buffer = rows.buffer(loaded);
      EmptyBarrier::wait(&s.x_empty[buffer], rows.phase(loaded) ^ 1);  // the first round finds them free
      FullBarrier::arrive_and_expect_tx(&s.x_full[buffer], rows.slices * kSliceBytes);
      for (int k = 0; k < rows.slices; ++k)
        copy(a.tma_x.with(s.x_full[buffer]), gx(_, static_cast<int>(row), k), tx(_, buffer * rows.slices + k));
      for (int64_t tile = plan.first(strip, row); tile < plan.strip_end(strip); ++tile)
        for (int k = 0; k < rows.slices; ++k, ++count) {
          const int stage = count % kStages;
          EmptyBarrier::wait(&s.empty[stage], count / kStages % 2 ^ 1);
          FullBarrier::arrive_and_expect_tx(&s.full[stage], kSliceBytes);
          copy(a.tma_y.with(s.full[stage]), gy(_, static_cast<int>(tile), k), ty(_, stage));
        }
    }
}

__device__ __forceinline__ void consume(const Args& a, const SumsPlan& plan, Shared& s, CommonShift shift) {
  using namespace cute;
  const int thread = threadIdx.x - SumsTraits::kGroup, group = thread / SumsTraits::kGroup, lane = thread % 32;
  auto sx = make_tensor(make_smem_ptr(s.x), LayoutX{});
  auto sy = make_tensor(make_smem_ptr(s.y), LayoutY{});
  Mma mma;
  auto part = mma.get_thread_slice(thread);
  auto fx = part.make_fragment_A(part.partition_A(sx));  // (MMA, MMA_M, MMA_K, slot), descriptors
  auto fy = part.make_fragment_B(part.partition_B(sy));  // (MMA, MMA_N, MMA_K, stage)
  auto acc = partition_fragment_C(mma, Shape<Tile, Tile>{});
  static_assert(decltype(size(acc))::value == 64);
  const Rows rows(a.d);
  int used = 0, count = 0;  // rows of tiles, slices of Y
  bool first_tile = true;
  const auto multiply = [&](int64_t, int64_t, bool last, const auto& use) {
    const int buffer = rows.buffer(used);
    if (first_tile) FullBarrier::wait(&s.x_full[buffer], rows.phase(used));
    mma.accumulate_ = GMMA::ScaleOut::Zero;
    for (int k = 0; k < rows.slices; ++k, ++count) {
      const int stage = count % kStages;
      FullBarrier::wait(&s.full[stage], count / kStages % 2);
      start_products(mma, fx(_, _, _, buffer * rows.slices + k), fy(_, _, _, stage), acc);
      if (k == 0) continue;
      warpgroup_wait<1>();  // the products with the slice before
      if (lane == 0) EmptyBarrier::arrive(&s.empty[(count - 1) % kStages]);
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(acc);
    if (lane == 0) {
      EmptyBarrier::arrive(&s.empty[(count - 1) % kStages]);
      if (last) EmptyBarrier::arrive(&s.x_empty[buffer]);
    }
    first_tile = last;
    if (last) ++used;
    use(acc);
  };
  const auto of_group = [&] { cutlass::arch::NamedBarrier::sync(SumsTraits::kGroup, 1 + group); };
  const auto of_all = [] { cutlass::arch::NamedBarrier::sync(SumsTraits::kGroups * SumsTraits::kGroup, 3); };
  super_sums(a.pairs, a.sums, plan, s.sums, thread, shift, multiply,
             Barriers<decltype(of_group), decltype(of_all)>{of_group, of_all});
}

__global__ void __launch_bounds__(kThreads, 1) sums_kernel(const __grid_constant__ Args a) {
  if (is_done(a.pairs)) return;
  const auto base = (reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) / 1024 * 1024;
  Shared& s = *reinterpret_cast<Shared*>(base);
  const SumsPlan plan(a.pairs, a.sums, blockIdx.x);
  const CommonShift shift = common_shift<kThreads / 32>(a.pairs, s.sums.slots);
  if (a.sums.rest && shift.serves()) return;
  if (threadIdx.x == 0) {
    for (int buffer = 0; buffer < 2; ++buffer) {
      FullBarrier::init(&s.x_full[buffer], 1);
      EmptyBarrier::init(&s.x_empty[buffer], SumsTraits::kGroups * 4);  // a lane of each warp
    }
    for (int stage = 0; stage < kStages; ++stage) {
      FullBarrier::init(&s.full[stage], 1);
      EmptyBarrier::init(&s.empty[stage], SumsTraits::kGroups * 4);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < SumsTraits::kGroup) {
    cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x == 0) produce(a, plan, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<232>();
    consume(a, plan, s, shift);
  }
}

}  // namespace

void pairwise_sums_sm90a(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts, bool rest) {
  const DeviceGuard guard(p.device);
  const int d = static_cast<int>(p.x.shape[1]);
  const PairwiseGrid grid(p.x.shape[0], p.y.shape[0]);
  const Args args = {tma_of(p.x.data, static_cast<int>(p.x.shape[0]), d, p.x.stride[0]),
                     tma_of(p.y.data, static_cast<int>(p.y.shape[0]), d, p.y.stride[0]),
                     pairs_of(p),
                     {static_cast<const float*>(p.bias), x_parts, y_parts, grid.span, grid.y_supers, rest},
                     d};
  launch("pairwise_sums_sm90a", sums_kernel, dim3(static_cast<unsigned>(grid.blocks(p.symmetric))), kThreads,
         sizeof(Shared) + 1024, p.stream, args);
}

}  // namespace sslspec::cuda

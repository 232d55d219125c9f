// The statistics pass on Hopper for bfloat16 rows of up to 512 columns where one shift serves all of them: row and
// column sums of the exponentials, a super block at a time, with the columns in shared memory and the rows passing
// (strips.cuh). Where none does, sums_sm90a.cu makes them.
//
// Tiling: 128 x 128, two consumer warpgroups of 64 rows each in turns; three warps bring by TMA, in slices of 64
// columns, the rows of either group (a ring of four) and the columns (a ring of eight). Products on wgmma, exponentials
// in the accumulator registers.
//
// Memory traffic per tile: 128 rows from L2. Precision policy: fp32 accumulation, exponents and sums; every sum has one
// order, no atomics.
#include <cute/tensor.hpp>
#include <cutlass/arch/reg_reconfig.h>

#include "gpu/wgmma_sm90.cuh"
#include "pairwise/cuda/hopper/strips.cuh"

namespace sslspec::cuda {
namespace {

using Elem = cutlass::bfloat16_t;
using Traits = StripsTraits;
using SideX = cute::Int<Traits::kRows>;
using SideY = cute::Int<Traits::kTile>;
using Slice = cute::Int<Traits::kSlice>;
using Atom = cute::GMMA::Layout_K_SW128_Atom<Elem>;

template <typename Side>
using LayoutSlice = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Side, Slice>{}));
template <typename Side, int kCount>
using LayoutRing = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Side, Slice, cute::Int<kCount>>{}));
using RingX = LayoutRing<SideX, Traits::kStages>;
using RingY = LayoutRing<SideY, Traits::kSlots>;
using Mma =
    decltype(cute::make_tiled_mma(cute::GMMA::ss_op_selector<Elem, Elem, float, cute::Shape<SideX, SideY, Slice>>()));

template <typename Side>
auto tma_of(const void* data, int rows, int d, int64_t ld) {
  return cute::make_tma_copy(cute::SM90_TMA_LOAD{},
                             cute::make_tensor(cute::make_gmem_ptr(static_cast<const Elem*>(data)),
                                               cute::make_shape(rows, d), cute::make_stride(ld, cute::_1{})),
                             LayoutSlice<Side>{}, cute::Shape<Side, Slice>{}, cute::_1{});
}
template <typename Side>
using Tma = decltype(tma_of<Side>(nullptr, 0, 0, 0));

struct Args {
  Tma<SideX> tma_x;
  Tma<SideY> tma_y;
  Pairs pairs;
  StripsArgs strips;
  int d;
};

template <typename Ring>
__device__ __forceinline__ auto ring_of(unsigned char* bytes) {
  return cute::make_tensor(cute::make_smem_ptr(reinterpret_cast<Elem*>(bytes)), Ring{});
}

// load(barrier, side, slice, place) for the functions of strips.cuh
template <typename Side, typename Ring, typename Copy, typename Use>
__device__ __forceinline__ void with_loads(const Copy& tma, int64_t count, int d, unsigned char* bytes,
                                           const Use& use) {
  using namespace cute;
  auto slices =
      local_tile(tma.get_tma_tensor(make_shape(static_cast<int>(count), d)), Shape<Side, Slice>{}, make_coord(_, _));
  auto ring = ring_of<Ring>(bytes);
  auto parts = tma_partition(tma, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(ring), group_modes<0, 2>(slices));
  use([&](SharedBarrier& barrier, int side, int slice, int place) {
    copy(tma.with(barrier.word), get<0>(parts)(_, side, slice), get<1>(parts)(_, place));
  });
}

template <typename X, typename Y, typename Accumulator>
struct Products {
  Mma mma;
  X x;  // (MMA, MMA_M, MMA_K, stage), descriptors
  Y y;
  Accumulator acc;
  static_assert(decltype(cute::size(acc))::value == 64);

  __device__ __forceinline__ void multiply(int stage, int slot, bool first) {
    using namespace cute;
    if (first) mma.accumulate_ = GMMA::ScaleOut::Zero;
    start_products(mma, x(_, _, _, stage), y(_, _, _, slot), acc);
  }
  template <int kPending>
  __device__ __forceinline__ void wait() {
    cute::warpgroup_wait<kPending>();
    if constexpr (kPending == 0) cute::warpgroup_fence_operand(acc);
  }
  __device__ __forceinline__ float operator()(int k) const { return acc(k); }
};

__device__ __forceinline__ auto products_of(unsigned char* x, unsigned char* y, int thread) {
  Mma mma;
  auto part = mma.get_thread_slice(thread);
  auto fx = part.make_fragment_A(part.partition_A(ring_of<RingX>(x)));
  auto fy = part.make_fragment_B(part.partition_B(ring_of<RingY>(y)));
  auto acc = partition_fragment_C(mma, cute::Shape<SideX, SideY>{});
  return Products<decltype(fx), decltype(fy), decltype(acc)>{mma, fx, fy, acc};
}

template <bool kKeeps>
__global__ void __launch_bounds__(Traits::kThreads, 1) strips_kernel(const __grid_constant__ Args a) {
  if (is_done(a.pairs)) return;
  unsigned char* bytes = dynamic_shared();
  // an offset and not another pointer, so that the compiler sees shared memory
  StripsShared& s = *reinterpret_cast<StripsShared*>(bytes + (1024 - shared_address(bytes) % 1024) % 1024);
  const CommonShift shift = common_shift<Traits::kThreads / 32>(a.pairs, s.slots);
  if (!shift.serves()) return;
  const StripsPlan plan(a.pairs, a.strips, blockIdx.x);
  init_strips(s);
  if (threadIdx.x < Traits::kGroup) {
    cutlass::arch::warpgroup_reg_dealloc<40>();
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 != 0) return;
    if (warp < Traits::kGroups)
      with_loads<SideX, RingX>(a.tma_x, a.pairs.x.count, a.d, s.x[warp][0],
                               [&](const auto& load) { bring_rows(a.strips, plan, s, warp, load); });
    else if (warp == Traits::kGroups)
      with_loads<SideY, RingY>(a.tma_y, a.pairs.y.count, a.d, s.y[0],
                               [&](const auto& load) { bring_columns(a.strips, plan, s, load); });
  } else {
    cutlass::arch::warpgroup_reg_alloc<232>();
    const int thread = threadIdx.x - Traits::kGroup;
    auto products = products_of(s.x[thread / Traits::kGroup][0], s.y[0], thread % Traits::kGroup);
    consume_strips<kKeeps>(a.pairs, a.strips, plan, s, thread, shift.value, products);
  }
}

}  // namespace

void pairwise_strips_sm90a(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts) {
  const DeviceGuard guard(p.device);
  const int d = static_cast<int>(p.x.shape[1]), slices = static_cast<int>(ceil_div(d, Traits::kSlice));
  const PairwiseGrid grid(p.x.shape[0], p.y.shape[0]);
  const Args args = {tma_of<SideX>(p.x.data, static_cast<int>(p.x.shape[0]), d, p.x.stride[0]),
                     tma_of<SideY>(p.y.data, static_cast<int>(p.y.shape[0]), d, p.y.stride[0]),
                     pairs_of(p),
                     {x_parts, y_parts, grid.span, grid.y_supers, slices, p.kept},
                     d};
  const auto kernel = p.kept.data == nullptr ? strips_kernel<false> : strips_kernel<true>;
  launch("pairwise_strips_sm90a", kernel, dim3(static_cast<unsigned>(grid.blocks(p.symmetric))), Traits::kThreads,
         sizeof(StripsShared) + 1024, p.stream, args);
}

}  // namespace sslspec::cuda

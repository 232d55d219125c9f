// The chained backward on Hopper. The mathematics is that of chained.cuh for bfloat16 rows, the softmax part
// and a scale that is a scalar or belongs to the rows.
//
// Tiling. A block owns 128 rows of X. One warp brings X and a ring of tiles of kCols rows of Y by TMA, with the weights
// of those columns; two warpgroups own 64 rows each and run S = X Y^T (wgmma, both operands in shared memory), the
// exponentials in the accumulator registers, and W Y (wgmma, W in registers, the same tile of Y read transposed). S of
// the next tile is in the queue behind W Y of the last one, and one group's exponentials overlap the other's products.
//
// Layouts. An accumulator of wgmma is that of mma.sync m16n8 per warp: element e + 2 h + 4 n is row lane / 4 + 8 h,
// column 8 n + 2 (lane % 4) + e. Its registers, packed in pairs, are in order the left operand of the next product.
// Memory traffic per tile: kCols rows of Y from L2. Precision policy: fp32 accumulation, W rounded to bfloat16; every
// sum has one order, no atomics.
#include <cute/tensor.hpp>
#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include "gpu/wgmma_sm90.cuh"
#include "pairwise/cuda/pairs.cuh"
#include "pairwise/cuda/hopper/hopper.h"

namespace sslspec::cuda {
namespace {

using Elem = cutlass::bfloat16_t;
using FullBarrier = cutlass::arch::ClusterTransactionBarrier;
using EmptyBarrier = cutlass::arch::ClusterBarrier;

template <int kWidth>
struct HopperTraits {
  static constexpr int kD = kWidth, kRows = 128, kCols = kD == 256 ? 64 : 128, kStages = 4;
  static constexpr int kConsumers = 2, kThreads = (kConsumers + 1) * 128;
  using D = cute::Int<kD>;
  using Cols = cute::Int<kCols>;
  using Atom = cute::GMMA::Layout_K_SW128_Atom<Elem>;
  using LayoutX = decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kRows>, D>{}));
  using LayoutY = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Cols, D, cute::Int<kStages>>{}));
  using LayoutYt =
      decltype(cute::composition(LayoutY{}, cute::make_layout(cute::Shape<D, Cols, cute::Int<kStages>>{},
                                                              cute::Stride<Cols, cute::_1, cute::Int<kCols * kD>>{})));
  using Groups = cute::Layout<cute::Shape<cute::Int<kConsumers>, cute::_1, cute::_1>>;
  using First = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Elem, Elem, float, cute::Shape<cute::Int<kRows>, Cols, D>>(), Groups{}));
  using Second = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Elem, Elem, float, cute::Shape<cute::Int<kRows>, D, Cols>, cute::GMMA::Major::K,
                                 cute::GMMA::Major::MN>(),
      Groups{}));
  static auto source(const void* data, int rows, int d, int64_t ld) {
    return cute::make_tensor(cute::make_gmem_ptr(static_cast<const Elem*>(data)), cute::make_shape(rows, d),
                             cute::make_stride(ld, cute::_1{}));
  }
  using Source = decltype(source(nullptr, 0, 0, 0));
  static auto tma_x(const Source& x) {
    return cute::make_tma_copy(cute::SM90_TMA_LOAD{}, x, LayoutX{}, cute::Shape<cute::Int<kRows>, D>{}, cute::_1{});
  }
  static auto tma_y(const Source& y) {
    return cute::make_tma_copy(cute::SM90_TMA_LOAD{}, y, LayoutY{}(cute::_, cute::_, cute::_0{}),
                               cute::Shape<Cols, D>{}, cute::_1{});
  }
  using TmaX = decltype(tma_x(Source{}));
  using TmaY = decltype(tma_y(Source{}));
  static_assert(kBoundRows % kRows == 0 && kBoundRows % kCols == 0);
};

template <typename Traits>
struct HopperShared {
  alignas(1024) Elem x[Traits::kRows * Traits::kD];
  alignas(1024) Elem y[Traits::kStages * Traits::kCols * Traits::kD];
  alignas(16) Weight weight[Traits::kStages][Traits::kCols];
  uint32_t mask[Traits::kConsumers][64 * Traits::kCols / 32];
  uint64_t x_full, full[Traits::kStages], empty[Traits::kStages];
  float slots[Traits::kThreads / 32];
};

template <typename Traits>
struct HopperArgs {
  typename Traits::TmaX tma_x;
  typename Traits::TmaY tma_y;
  Pairs pairs;
  HopperChained c;
};

template <typename Traits>
__device__ __forceinline__ void produce(const HopperArgs<Traits>& a, HopperShared<Traits>& s, int64_t first,
                                        int64_t last) {
  using namespace cute;
  const int n = static_cast<int>(a.pairs.x.count), m = static_cast<int>(a.pairs.y.count), d = a.c.d;
  auto x = local_tile(a.tma_x.get_tma_tensor(make_shape(n, d)), Shape<Int<Traits::kRows>, Int<Traits::kD>>{},
                      make_coord(static_cast<int>(blockIdx.x), 0));
  auto y = local_tile(a.tma_y.get_tma_tensor(make_shape(m, d)), Shape<Int<Traits::kCols>, Int<Traits::kD>>{},
                      make_coord(_, 0));
  auto sx = make_tensor(make_smem_ptr(s.x), typename Traits::LayoutX{});
  auto sy = make_tensor(make_smem_ptr(s.y), typename Traits::LayoutY{});
  auto [gx, tx] = tma_partition(a.tma_x, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(sx), group_modes<0, 2>(x));
  auto [gy, ty] = tma_partition(a.tma_y, Int<0>{}, Layout<_1>{}, group_modes<0, 2>(sy), group_modes<0, 2>(y));

  FullBarrier::arrive_and_expect_tx(&s.x_full, sizeof(s.x));
  copy(a.tma_x.with(s.x_full), gx, tx);
  for (int64_t tile = first; tile < last; ++tile) {
    const int at = static_cast<int>(tile - first), stage = at % Traits::kStages;
    EmptyBarrier::wait(&s.empty[stage], at / Traits::kStages % 2 ^ 1);  // the first round finds every stage free
    const int64_t j0 = tile * Traits::kCols, left = a.pairs.y.count - j0;
    // whole pairs of weights: 16 bytes; the workspace goes on for at least one more
    const int weights =
        a.c.y_weights == nullptr ? 0 : static_cast<int>((min(left, int64_t(Traits::kCols)) + 1) / 2 * 2);
    FullBarrier::arrive_and_expect_tx(&s.full[stage],
                                      Traits::kCols * Traits::kD * sizeof(Elem) + weights * sizeof(Weight));
    copy(a.tma_y.with(s.full[stage]), gy(_, static_cast<int>(tile)), ty(_, stage));
    if (weights > 0)
      SM90_BULK_COPY_G2S::copy(a.c.y_weights + j0, &s.full[stage], s.weight[stage],
                               weights * static_cast<int>(sizeof(Weight)));
  }
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// The weights of a 64 x kCols part in place of its products, in the accumulator registers. Left-out pairs, and columns
// beyond the last, whose weights are not defined, are set to 0 in the end, whatever came out for them. kNarrow is known
// at compile time because a branch per element would leave one exponential in flight at a time.
template <typename Traits, bool kNarrow, typename Fragment>
__device__ __forceinline__ void weigh(Fragment& acc, const Weight (&row)[2], const float (&scale)[2],
                                      const Weight* column, float shift) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < Traits::kCols / 8; ++n) {
    const float4 both = *reinterpret_cast<const float4*>(column + n * 8 + lane % 4 * 2);
    const Weight other[2] = {{both.x, both.y}, {both.z, both.w}};
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = acc(4 * n + 2 * h + e);
        if constexpr (kNarrow) {
          x = exp2_fast(fmaf(x, scale[h], -shift)) * (row[h].factor + other[e].factor);
        } else {
          const float own = row[h].factor * exp2_fast(fmaf(x, scale[h], -row[h].shift));
          x = fmaf(other[e].factor, exp2_fast(fmaf(x, scale[h], -other[e].shift)), own);
        }
      }
  }
}

template <typename Traits, typename Fragment>
__device__ __forceinline__ void clear_left_out(Fragment& acc, const uint32_t* bits) {
  const int lane = threadIdx.x % 32, local = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < Traits::kCols / 8; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t word = bits[(local + 8 * h) * (Traits::kCols / 32) + n / 4] >> (n % 4 * 8 + lane % 4 * 2);
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (word >> e & 1) acc(4 * n + 2 * h + e) = 0.0f;
    }
}

template <typename Traits>
__device__ __forceinline__ void consume(const HopperArgs<Traits>& a, HopperShared<Traits>& s, int64_t first,
                                        int64_t last, CommonShift common) {
  using namespace cute;
  const Pairs& p = a.pairs;
  const int thread = threadIdx.x - 128, group = thread / 128, lane = thread % 32;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * Traits::kRows;
  const int own_row = group * 64 + thread % 128 / 32 * 16 + lane / 4;  // and the one 8 below
  const bool narrow = common.serves();
  const float shift = common.value;
  Weight row[2];
  float scale[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t i = min(i0 + own_row + 8 * h, p.x.count - 1);
    row[h] = a.c.x_weights != nullptr ? a.c.x_weights[i] : kNoWeight;
    scale[h] = kLog2e * p.scale[i * p.scale_row];
  }

  auto sx = make_tensor(make_smem_ptr(s.x), typename Traits::LayoutX{});
  auto sy = make_tensor(make_smem_ptr(s.y), typename Traits::LayoutY{});
  auto syt = make_tensor(make_smem_ptr(s.y), typename Traits::LayoutYt{});
  typename Traits::First first_mma;
  typename Traits::Second second_mma;
  auto first_part = first_mma.get_thread_slice(thread);
  auto second_part = second_mma.get_thread_slice(thread);
  auto fx = first_part.make_fragment_A(first_part.partition_A(sx));      // (MMA, MMA_M, MMA_K), descriptors
  auto fy = first_part.make_fragment_B(first_part.partition_B(sy));      // (MMA, MMA_N, MMA_K, stage)
  auto fyt = second_part.make_fragment_B(second_part.partition_B(syt));  // (MMA, MMA_N, MMA_K, stage)
  auto out = partition_fragment_C(second_mma, Shape<Int<Traits::kRows>, Int<Traits::kD>>{});
  auto acc = partition_fragment_C(first_mma, Shape<Int<Traits::kRows>, Int<Traits::kCols>>{});
  auto w = make_tensor<Elem>(Layout<Shape<Shape<_2, _2, _2>, _1, Int<Traits::kCols / 16>>>{});
  auto words = recast<uint32_t>(w);
  static_assert(decltype(size(acc))::value == Traits::kCols / 2 && decltype(size(out))::value == Traits::kD / 2);
  static_assert(decltype(size(words))::value == Traits::kCols / 4);
  clear(out);

  FullBarrier::wait(&s.x_full, 0);
  for (int64_t tile = first; tile < last; ++tile) {
    const int at = static_cast<int>(tile - first), stage = at % Traits::kStages;
    const int64_t j0 = tile * Traits::kCols;
    FullBarrier::wait(&s.full[stage], at / Traits::kStages % 2);
    first_mma.accumulate_ = GMMA::ScaleOut::Zero;
    start_products(first_mma, fx, fy(_, _, _, stage), acc);
    const bool masked = tile_is_masked(p, i0, Traits::kRows, j0, Traits::kCols);  // while the products run
    if (masked) {  // each group for its own rows, which the last tile's readers have left
      cutlass::arch::NamedBarrier::sync(128, 1 + group);
      mask_words<64, Traits::kCols>(p, i0 + group * 64, j0, s.mask[group], thread % 128, 128);
      cutlass::arch::NamedBarrier::sync(128, 1 + group);
    }
    if (at > 0) {  // W Y of the last tile is through: its stage and its W are free
      warpgroup_wait<1>();
      if (lane == 0) EmptyBarrier::arrive(&s.empty[(at - 1) % Traits::kStages]);
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(acc);
    warpgroup_fence_operand(out);

    if (narrow)
      weigh<Traits, true>(acc, row, scale, s.weight[stage], shift);
    else
      weigh<Traits, false>(acc, row, scale, s.weight[stage], shift);
    if (masked) clear_left_out<Traits>(acc, s.mask[group]);
#pragma unroll
    for (int i = 0; i < Traits::kCols / 4; ++i) words(i) = pack_pair(acc(2 * i), acc(2 * i + 1));

    warpgroup_fence_operand(out);
    warpgroup_arrive();
#pragma unroll
    for (int k = 0; k < Traits::kCols / 16; ++k) gemm(second_mma, w(_, _, k), fyt(_, _, k, stage), out);
    warpgroup_commit_batch();
  }
  warpgroup_wait<0>();
  warpgroup_fence_operand(out);

  const int64_t width = a.c.d + 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t i = i0 + own_row + 8 * h;
    const bool inside = i < p.x.count;
    const float factor = inside ? p.scale[i * p.scale_row] : 1.0f;
    const auto* x = reinterpret_cast<const __nv_bfloat162*>(p.x.data + (inside ? i : 0) * p.x.pitch);
    float* part = a.c.parts + (blockIdx.y * p.x.count + i) * width;
    float dot = 0;
#pragma unroll
    for (int n = 0; n < Traits::kD / 8; ++n) {
      const int k = n * 8 + lane % 4 * 2;
      if (k >= a.c.d || !inside) continue;
      const float v0 = out(4 * n + 2 * h), v1 = out(4 * n + 2 * h + 1);
      const float2 mine = __bfloat1622float2(x[k / 2]);
      dot = fmaf(mine.x, v0, fmaf(mine.y, v1, dot));
      if (a.c.splits > 1)
        *reinterpret_cast<float2*>(part + k) = make_float2(v0, v1);
      else if (a.c.grad_f32)
        *reinterpret_cast<float2*>(static_cast<float*>(a.c.grad) + i * a.c.d + k) =
            make_float2(v0 * factor, v1 * factor);
      else
        *reinterpret_cast<uint32_t*>(static_cast<Elem*>(a.c.grad) + i * a.c.d + k) =
            pack_pair(v0 * factor, v1 * factor);
    }
    dot = quad_sum(dot);
    if (lane % 4 != 0 || !inside) continue;
    if (a.c.splits > 1)
      part[a.c.d] = dot, part[a.c.d + 1] = 0.0f;
    else if (a.c.row_dot != nullptr)
      a.c.row_dot[i] = dot;
  }
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1) hopper_kernel(const __grid_constant__ HopperArgs<Traits> a) {
  const auto base = (reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) / 1024 * 1024;
  HopperShared<Traits>& s = *reinterpret_cast<HopperShared<Traits>*>(base);
  const int64_t tiles = ceil_div(a.pairs.y.count, Traits::kCols);
  const int64_t first = tiles * blockIdx.y / a.c.splits, last = tiles * (blockIdx.y + 1) / a.c.splits;
  const CommonShift common = common_shift<Traits::kThreads / 32>(a.pairs, s.slots);
  // no weights of columns: no copy, and these to read
  for (int at = threadIdx.x; at < Traits::kStages * Traits::kCols; at += Traits::kThreads)
    (&s.weight[0][0])[at] = kNoWeight;
  if (threadIdx.x == 0) {
    FullBarrier::init(&s.x_full, 1);
    for (int stage = 0; stage < Traits::kStages; ++stage) {
      FullBarrier::init(&s.full[stage], 1);
      EmptyBarrier::init(&s.empty[stage], Traits::kConsumers * 4);  // a lane of each warp
    }
    cutlass::arch::fence_barrier_init();
  }
  cutlass::arch::fence_view_async_shared();  // before the bulk copies that overwrite them
  __syncthreads();
  if (threadIdx.x < 128) {
    cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x == 0) produce(a, s, first, last);
  } else {
    cutlass::arch::warpgroup_reg_alloc<232>();
    consume(a, s, first, last, common);
  }
}

template <typename Traits>
void launch_hopper(const PairwiseProblem& p, const Pairs& pairs, const HopperChained& c) {
  const auto x = Traits::source(p.x.data, static_cast<int>(p.x.shape[0]), c.d, p.x.stride[0]);
  const auto y = Traits::source(p.y.data, static_cast<int>(p.y.shape[0]), c.d, p.y.stride[0]);
  const HopperArgs<Traits> args = {Traits::tma_x(x), Traits::tma_y(y), pairs, c};
  launch("pairwise_chained_sm90a", hopper_kernel<Traits>,
         dim3(static_cast<unsigned>(ceil_div(p.x.shape[0], Traits::kRows)), static_cast<unsigned>(c.splits)),
         Traits::kThreads, sizeof(HopperShared<Traits>) + 1024, p.stream, args);
}

}  // namespace

void pairwise_chained_sm90a(const PairwiseProblem& p, const HopperChained& c) {
  const DeviceGuard guard(p.device);
  const Pairs pairs = pairs_of(p);
  if (c.d <= 64) return launch_hopper<HopperTraits<64>>(p, pairs, c);
  if (c.d <= 128) return launch_hopper<HopperTraits<128>>(p, pairs, c);
  launch_hopper<HopperTraits<256>>(p, pairs, c);
}

}  // namespace sslspec::cuda

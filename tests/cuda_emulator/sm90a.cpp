// Host stand-ins: for csrc/pairwise/cuda/hopper/weights_sm90a.cu the same numbers without CUTLASS, for
// statistics_sm90a.cu, sums_sm90a.cu and strips_sm90a.cu beside it and csrc/gram/cuda/hopper/triangle_sm90a.cu their
// products (strips: their loads too); the chained kernel of Hopper is not emulated.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/check.h"
#include "gram/cuda/gram.cuh"
#include "gram/cuda/hopper/gradient.h"
#include "gram/cuda/hopper/triangle.cuh"
#include "pairwise/cuda/exponentials.cuh"
#include "pairwise/cuda/hopper/strips.cuh"
#include "pairwise/cuda/hopper/sums.cuh"
#include "pairwise/cuda/sigmoid.cuh"

namespace sslspec::cuda {

void pairwise_weights_sm90a(const HopperWeights& p) {
  emulator::launches().push_back("pairwise_weights_sm90a");
  const auto *x = static_cast<const __nv_bfloat16*>(p.x), *y = static_cast<const __nv_bfloat16*>(p.y);
  for (int64_t i = 0; i < p.rows; ++i)
    for (int64_t j = 0; j < p.m; ++j) {
      double dot = 0;
      for (int64_t k = 0; k < p.d; ++k)
        dot += double(__bfloat162float(x[i * p.ldx + k])) * __bfloat162float(y[j * p.ldy + k]);
      const double power = dot * p.c[i] - p.x_shift[i];
      double w = p.x_factor[i] * (*p.kind == kSigmoid ? 1 / (1 + std::exp2(-power)) : std::exp2(power));
      if (*p.kind == kOneExponential) w += p.y_factor != nullptr ? p.y_factor[j] * std::exp2(power) : 0.0;
      if (*p.kind == kTwoExponentials) w += p.y_factor[j] * std::exp2(dot * p.c[i] - p.y_shift[j]);
      static_cast<__nv_bfloat16*>(p.out)[i * p.pitch + j] = __float2bfloat16(static_cast<float>(w));
    }
}

void pairwise_exponentials_sm90a(const PairwiseProblem& p, const WeightRows& w, float* workspace) {
  emulator::launches().push_back("pairwise_exponentials_sm90a");
  const auto *x = static_cast<const __nv_bfloat16*>(p.x.data), *y = static_cast<const __nv_bfloat16*>(p.y.data);
  const int64_t m = p.y.shape[0];
  const Exponentials to(workspace, w.rows, m);
  const float scale = *static_cast<const float*>(p.scale) * kLog2e;
  for (int64_t r = 0; r < w.rows; ++r) {
    const int64_t i = w.row0 + r;
    for (int64_t k = 0; k < to.slots; ++k) to.sums[r * to.slots + k] = 0;
    for (int64_t j = 0; j < m; ++j) {
      double dot = 0;
      for (int64_t k = 0; k < p.x.shape[1]; ++k)
        dot += double(__bfloat162float(x[i * p.x.stride[0] + k])) * __bfloat162float(y[j * p.y.stride[0] + k]);
      const float logit = static_cast<float>(dot) * scale - *to.shift;
      const float e = (p.skip_self && i == j) || logit < -126.0f ? 0.0f : std::exp2(logit);
      to.sums[r * to.slots + j / 128] += e;
      static_cast<__nv_bfloat16*>(w.data)[r * w.pitch + j] = __float2bfloat16(e);
    }
  }
}

// The sums of the tile's rows by warp, as the accumulator of a warpgroup has them.
void pairwise_sigmoid_sm90a(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums) {
  emulator::launches().push_back("pairwise_sigmoid_sm90a");
  const auto *x = static_cast<const __nv_bfloat16*>(p.x.data), *y = static_cast<const __nv_bfloat16*>(p.y.data);
  const float scale = number_or(p.scale, p.number), bias = number_or(p.bias, p.offset);
  const int64_t m = p.y.shape[0], columns = ceil_div(m, 128);
  for (int64_t k = 0; k < ceil_div(w.rows, 128) * columns * kSigmoidSlots; ++k) sums[k] = {0, 0, 0};
  for (int64_t r = 0; r < w.rows; ++r)
    for (int64_t j = 0; j < m; ++j) {
      const int64_t i = w.row0 + r;
      double dot = 0;
      for (int64_t k = 0; k < p.x.shape[1]; ++k)
        dot += double(__bfloat162float(x[i * p.x.stride[0] + k])) * __bfloat162float(y[j * p.y.stride[0] + k]);
      const float factor = p.row_factor == nullptr ? 1.0f : p.row_factor[i], product = static_cast<float>(dot);
      const SigmoidPair pair = i == j ? positive_pair(product * scale + bias) : negative_pair(product * scale + bias);
      SigmoidTotals totals;
      totals.add(pair, factor, product);
      SigmoidSums& slot = sums[(r / 128 * columns + j / 128) * kSigmoidSlots + r % 64 / 16];
      slot.value += totals.value, slot.weight += totals.weight, slot.product += totals.product;
      static_cast<__nv_bfloat16*>(w.data)[r * w.pitch + j] = __float2bfloat16(factor * pair.weight);
    }
}

float dot_of(const Pairs& p, int64_t i, int64_t j) {
  if (i >= p.x.count || j >= p.y.count) return 0.0f;  // TMA fills with zeros
  const auto* left = reinterpret_cast<const __nv_bfloat16*>(p.x.data + i * p.x.pitch);
  const auto* right = reinterpret_cast<const __nv_bfloat16*>(p.y.data + j * p.y.pitch);
  double dot = 0;
  for (int k = 0; k < p.x.bytes / 2; ++k) dot += double(__bfloat162float(left[k])) * __bfloat162float(right[k]);
  return static_cast<float>(dot);
}

// The epilogue is the real one; the products are made in the layout of wgmma's accumulator, m64n128, by rows of 64.
void statistics_stand_in(const Pairs p, const HopperStatistics out) {
  auto& s = *reinterpret_cast<TileSumsShared*>(dynamic_shared());
  if (is_done(p)) return;
  const CommonShift shift = common_shift<TileSumsTraits::kWarps>(p, s.slots);
  if (threadIdx.x == 0) s.shift = shift;
  __syncthreads();
  const int thread = threadIdx.x, lane = thread % 32;
  std::vector<float> products(128);
  for (int at = 0; at < 128; ++at) {
    const int64_t i = blockIdx.x * 128 + at / 64 * 64 + thread / 32 * 16 + lane / 4 + at / 2 % 2 * 8;
    const int64_t j = out.col0 + blockIdx.y * 128 + at % 64 / 4 * 8 + lane % 4 * 2 + at % 2;
    products[at] = i < out.rows ? dot_of(p, out.row0 + i, j) : 0.0f;
  }
  store_tile_sums(
      p, out, blockIdx.x, blockIdx.y, [&](int at) { return products[at]; }, s, thread, [] { __syncthreads(); });
}

void pairwise_statistics_sm90a(const PairwiseProblem& problem, const HopperStatistics& out) {
  const Pairs p = pairs_of(problem);
  const auto blocks = [](int64_t n) { return static_cast<unsigned>(ceil_div(n, TileSumsTraits::kTile)); };
  const dim3 grid((blocks(out.rows) + 1) / 2 * 2, blocks(p.y.count - out.col0));  // clusters of two
  launch("statistics", statistics_stand_in, grid, TileSumsTraits::kThreads, sizeof(TileSumsShared), 0, p, out);
}

void sums_stand_in(const Pairs p, const SumsArgs args) {
  auto& s = *reinterpret_cast<SumsShared*>(dynamic_shared());
  constexpr int kThreads = SumsTraits::kGroups * SumsTraits::kGroup;
  if (is_done(p)) return;
  const CommonShift shift = common_shift<kThreads / 32>(p, s.slots);
  if (args.rest && shift.serves()) return;
  const int thread = threadIdx.x, group = thread / 128, warp = thread % 128 / 32, lane = thread % 32;
  const auto multiply = [&](int64_t row, int64_t tile, bool, const auto& use) {
    use([&](int at) {
      return dot_of(p, row * 128 + group * 64 + warp * 16 + lane / 4 + at / 2 % 2 * 8,
                    tile * 128 + at / 4 * 8 + lane % 4 * 2 + at % 2);
    });
  };
  // both groups meet at the same barriers, so that one of all threads serves
  const auto barrier = [] { __syncthreads(); };
  super_sums(p, args, SumsPlan(p, args, blockIdx.x), s, thread, shift, multiply,
             Barriers<decltype(barrier), decltype(barrier)>{barrier, barrier});
}

void pairwise_sums_sm90a(const PairwiseProblem& problem, Partial* x_parts, Partial* y_parts, bool rest) {
  const Pairs p = pairs_of(problem);
  const PairwiseGrid grid(p.x.count, p.y.count);
  launch("sums", sums_stand_in, dim3(static_cast<unsigned>(grid.blocks(p.symmetric))), 256, sizeof(SumsShared), 0, p,
         SumsArgs{static_cast<const float*>(problem.bias), x_parts, y_parts, grid.span, grid.y_supers, rest});
}

// A slice of 64 columns of `count` rows from row `row` on, which lands when its barrier is waited for; as with TMA, all
// of it counts, and what is beyond the matrix is 0.
void load_slice(SharedBarrier& barrier, const Rows& rows, int64_t row, int count, int slice, unsigned char* to) {
  emulator::land_later(&barrier.word, count * 128, [=] {
    for (int r = 0; r < count; ++r)
      for (int k = 0; k < 64; ++k) {
        const int at = slice * 64 + k;
        const bool inside = row + r < rows.count && at * 2 < rows.bytes;
        reinterpret_cast<__nv_bfloat16*>(to)[r * 64 + k] =
            inside ? reinterpret_cast<const __nv_bfloat16*>(rows.data + (row + r) * rows.pitch)[at]
                   : __float2bfloat16(0.0f);
      }
  });
}

// Products of slices in shared memory, in the layout of wgmma's accumulator; memory is read when they are waited for.
struct SliceProducts {
  StripsShared& s;
  int group, thread;
  struct Queued {
    int stage, slot;
    bool first;
  };
  std::vector<Queued> queued;
  std::vector<float> sums = std::vector<float>(64);

  void multiply(int stage, int slot, bool first) { queued.push_back({stage, slot, first}); }
  template <int kPending>
  void wait() {
    while (queued.size() > kPending) {
      const Queued now = queued.front();
      queued.erase(queued.begin());
      const auto* x = reinterpret_cast<const __nv_bfloat16*>(s.x[group][now.stage]);
      const auto* y = reinterpret_cast<const __nv_bfloat16*>(s.y[now.slot]);
      for (int k = 0; k < 64; ++k) {
        const int row = thread / 32 * 16 + thread % 32 / 4 + k / 2 % 2 * 8, column = k / 4 * 8 + thread % 4 * 2 + k % 2;
        double dot = now.first ? 0.0 : sums[k];
        for (int at = 0; at < 64; ++at)
          dot += double(__bfloat162float(x[row * 64 + at])) * __bfloat162float(y[column * 64 + at]);
        sums[k] = static_cast<float>(dot);
      }
    }
  }
  float operator()(int k) const { return queued.empty() ? sums[k] : NAN; }
};

template <bool kKeeps>
void strips_stand_in(const Pairs p, const StripsArgs args) {
  using Traits = StripsTraits;
  auto& s = *reinterpret_cast<StripsShared*>(dynamic_shared());
  if (is_done(p)) return;
  const CommonShift shift = common_shift<Traits::kThreads / 32>(p, s.slots);
  if (!shift.serves()) return;
  const StripsPlan plan(p, args, blockIdx.x);
  init_strips(s);
  const int thread = threadIdx.x, warp = thread / 32, of = (thread - Traits::kGroup) / Traits::kGroup;
  if (thread >= Traits::kGroup) {
    SliceProducts products = {s, of, thread % Traits::kGroup};
    return consume_strips<kKeeps>(p, args, plan, s, thread - Traits::kGroup, shift.value, products);
  }
  if (thread % 32 != 0) return;
  if (warp < Traits::kGroups)
    bring_rows(args, plan, s, warp, [&](SharedBarrier& barrier, int side, int slice, int stage) {
      load_slice(barrier, p.x, side * int64_t{64}, 64, slice, s.x[warp][stage]);
    });
  else if (warp == Traits::kGroups)
    bring_columns(args, plan, s, [&](SharedBarrier& barrier, int side, int slice, int slot) {
      load_slice(barrier, p.y, side * int64_t{128}, 128, slice, s.y[slot]);
    });
}

void pairwise_strips_sm90a(const PairwiseProblem& problem, Partial* x_parts, Partial* y_parts) {
  const Pairs p = pairs_of(problem);
  const PairwiseGrid grid(p.x.count, p.y.count);
  const int slices = static_cast<int>(ceil_div(problem.x.shape[1], 64));
  const auto kernel = problem.kept.data == nullptr ? strips_stand_in<false> : strips_stand_in<true>;
  launch("strips", kernel, dim3(static_cast<unsigned>(grid.blocks(p.symmetric))), StripsTraits::kThreads,
         sizeof(StripsShared), 0, p, StripsArgs{x_parts, y_parts, grid.span, grid.y_supers, slices, problem.kept});
}

void triangle_stand_in(const TriangleProblem p, const TriangleArgs args) {
  auto& s = *reinterpret_cast<TriangleShared*>(dynamic_shared());
  const TrianglePlace at(args, blockIdx.x);
  constexpr int kTile = TriangleTraits::kTile;
  const int thread = threadIdx.x, lane = thread % 32;
  const auto* factors = static_cast<const __nv_bfloat16*>(p.factors) + at.operand * p.rows * p.d;
  const int64_t step = p.columns ? p.d : 1, along = p.columns ? 1 : p.d, depth = p.columns ? p.rows : p.d;
  end_triangle_tile(
      args, at,
      [&](int k) {
        const int64_t i = at.row * kTile + thread / 32 * 16 + lane / 4 + k / 2 % 2 * 8;
        const int64_t j = at.column * kTile + k / 4 * 8 + lane % 4 * 2 + k % 2;
        double dot = 0;
        if (i < args.side && j < args.side)  // TMA fills with zeros
          for (int64_t t = 0; t < depth; ++t)
            dot += double(__bfloat162float(factors[i * along + t * step])) *
                   __bfloat162float(factors[j * along + t * step]);
        return static_cast<float>(dot);
      },
      s, blockIdx.x, thread, [] { __syncthreads(); });
}

void gram_triangle_sm90a(const TriangleProblem& p) {
  const TriangleArgs args = triangle_args(p);
  launch("gram_triangle_sm90a", triangle_stand_in, dim3(static_cast<unsigned>(args.tiles * p.operands)),
         TriangleTraits::kThreads, sizeof(TriangleShared), 0, p, args);
}

// The products and their order are the host's, what becomes of them is the real thing.
void gram_gradient_sm90a(const GradientProblem& p) {
  emulator::launches().push_back("gram_gradient_sm90a");
  const auto *left = static_cast<const __nv_bfloat16*>(p.left), *right = static_cast<const __nv_bfloat16*>(p.right);
  const auto *x = static_cast<const __nv_bfloat16*>(p.x), *other = static_cast<const __nv_bfloat16*>(p.other);
  std::vector<double> dot(p.d);
  for (int64_t i = 0; i < p.n; ++i) {
    std::fill(dot.begin(), dot.end(), 0.0);
    for (int64_t t = 0; t < p.depth; ++t)
      for (int64_t k = 0; k < p.d; ++k)
        dot[k] += double(__bfloat162float(left[i * p.depth + t])) * __bfloat162float(right[t * p.d + k]);
    for (int64_t k = 0; k < p.d; ++k) {
      const float own = widened(x[i * p.ldx + k]), partner = widened(narrowed<__nv_bfloat16>(own - p.shift[k]));
      const float g = entry_gradient(static_cast<float>(dot[k]), partner, own, widened(other[i * p.ldother + k]),
                                     EntryTerms<float>{p.shift[k], p.diagonal[k], p.own[k]}, p.alpha, p.near);
      static_cast<__nv_bfloat16*>(p.out)[i * p.d + k] = narrowed<__nv_bfloat16>(*p.factor * g);
    }
  }
}

void pairwise_chained_sm90a(const PairwiseProblem&, const HopperChained&) {
  throw CudaError("pairwise_chained_sm90a is not emulated");
}

}  // namespace sslspec::cuda

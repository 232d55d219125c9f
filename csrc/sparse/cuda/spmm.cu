// Y = alpha * r (A (c X)) + beta * Y + (gamma + delta * diagonal) W on the GPU.
//
// Tiling: a group of lanes owns a row of Y, as many as it has packs of 16 bytes (at most 32, then a lane takes several
// in turn; groups may lie across warps); entries are taken in order, four in flight. Every element of Y is written
// once, by one thread: no atomics, one fixed order. Memory traffic: one row of X per entry (16-byte accesses where the
// layout allows), the index, Y. Long rows are not split: a row of degree k costs k gathers of one group. Precision
// policy: everything in the type of X, sums of kRun entries added up with compensation.
#include "common/dispatch.h"
#include "gpu/pack.cuh"
#include "sparse/cuda/csr.cuh"
#include "sparse/cuda/sparse.h"
#include "sparse/checks.h"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kAhead = 4, kRun = 64, kMostLanes = 32;
static_assert(kRun % kAhead == 0);

template <typename T>
struct SpmmArgs {
  Sparse a;
  const T *x, *own, *row_scale, *col_scale, *w, *diagonal;
  T* y;
  int64_t ldo, ldw, ldy, b, upper_from;
  int ldx, lanes;  // lanes of a row
  bool add_scales;
  T alpha, beta, gamma, delta;
};

// kPlain: A x scaled by rows alone, which is what solvers repeat; the terms of the others cost it a quarter.
template <typename T, typename Index_, int kWidth_, bool kPlain_>
struct SpmmTraits {
  using Value = T;
  using Index = Index_;
  static constexpr int kWidth = kWidth_;
  static constexpr bool kPlain = kPlain_;
};

template <typename Traits>
__global__ void __launch_bounds__(kThreads) spmm_kernel(const __grid_constant__ SpmmArgs<typename Traits::Value> p) {
  using T = typename Traits::Value;
  using Index = typename Traits::Index;
  constexpr int kWidth = Traits::kWidth;
  using P = Pack<T, kWidth>;
  const int rows = kThreads / p.lanes, row = static_cast<int>(threadIdx.x) / p.lanes;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * rows + row;
  if (row >= rows || i >= p.a.n) return;
  const Index* indices = static_cast<const Index*>(p.a.indices);
  int64_t begin = p.a.indptr[i];
  const int64_t end = p.a.indptr[i + 1], self = p.upper_from + i;
  if constexpr (!Traits::kPlain)
    if (p.upper_from >= 0) {
      int64_t high = end;
      while (begin < high) {  // first entry of the upper triangle
        const int64_t mid = begin + (high - begin) / 2;
        if (indices[mid] < self)
          begin = mid + 1;
        else
          high = mid;
      }
    }
  const T own_scale = p.row_scale == nullptr ? T(0) : p.row_scale[i];
  const T factor = p.add_scales || p.row_scale == nullptr ? p.alpha : p.alpha * own_scale;
  const T of_w = p.diagonal == nullptr ? p.gamma : p.gamma + p.delta * p.diagonal[i];
  for (int64_t c = (static_cast<int>(threadIdx.x) - row * p.lanes) * kWidth; c < p.b; c += p.lanes * kWidth) {
    P mine{};
    if constexpr (!Traits::kPlain)
      if (p.own != nullptr) mine = *reinterpret_cast<const P*>(p.own + i * p.ldo + c);
    LongSum<T> total[kWidth];
    for (int64_t from = begin; from < end; from += kRun) {
      const int count = static_cast<int>(end - from < kRun ? end - from : kRun);
      P sum{};
      for (int e = 0; e < count; e += kAhead) {
        P near[kAhead];
        T weight[kAhead];
#pragma unroll
        for (int q = 0; q < kAhead; ++q) {
          const int64_t at = from + (e + q < count ? e + q : e);
          const Index j = indices[at];
          near[q] = *reinterpret_cast<const P*>(p.x + static_cast<int64_t>(j) * p.ldx + c);
          weight[q] = p.a.template value<T>(at);
          if constexpr (!Traits::kPlain) {
            if (p.add_scales)
              weight[q] *= own_scale + p.col_scale[j];
            else if (p.col_scale != nullptr)
              weight[q] *= p.col_scale[j];
            if (p.upper_from >= 0 && j == self) weight[q] *= T(0.5);
          }
        }
#pragma unroll
        for (int q = 0; q < kAhead; ++q)
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            T term = near[q].v[k];
            if constexpr (!Traits::kPlain) term = p.own != nullptr ? mine.v[k] - term : term;
            if (e + q < count) sum.v[k] += weight[q] * term;
          }
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) total[k].add(sum.v[k]);
    }
    P out;
    P* y = reinterpret_cast<P*>(p.y + i * p.ldy + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) out.v[k] = factor * total[k].total;
    if (p.beta != T(0)) {
      const P old = *y;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) out.v[k] += p.beta * old.v[k];
    }
    if (p.w != nullptr) {
      const P w = *reinterpret_cast<const P*>(p.w + i * p.ldw + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) out.v[k] += of_w * w.v[k];
    }
    *y = out;
  }
}

template <typename T, typename Index, int kWidth>
void launch_spmm(SpmmArgs<T> p, int64_t stream) {
  const int64_t packs_per_row = ceil_div(p.b, kWidth), turns = ceil_div(packs_per_row, kMostLanes);
  if (turns == 0) return;
  p.lanes = static_cast<int>(ceil_div(packs_per_row, turns));
  const dim3 grid(static_cast<unsigned>(ceil_div(p.a.n, kThreads / p.lanes)));
  const bool plain = p.own == nullptr && p.col_scale == nullptr && p.upper_from < 0;
  const auto kernel =
      plain ? spmm_kernel<SpmmTraits<T, Index, kWidth, true>> : spmm_kernel<SpmmTraits<T, Index, kWidth, false>>;
  launch("spmm", kernel, grid, kThreads, 0, stream, p);
}

template <typename T>
void prepare_spmm(SpmmArgs<T> p, const TensorView& x, const TensorView& own, const Scales& scales,
                  const Combination& combination, const TensorView& y, int64_t stream) {
  const TensorView& w = combination.w;
  SSLSPEC_CHECK(x.stride[0] < int64_t{1} << 31, "spmm: rows of x must be less than 2^31 entries apart, got ",
                x.stride[0]);
  p.x = x.as<T>(), p.ldx = static_cast<int>(x.stride[0]), p.b = x.shape[1];
  p.own = own.as<T>(), p.ldo = own.stride[0];
  p.row_scale = scales.row.as<T>(), p.col_scale = scales.col.as<T>(), p.add_scales = scales.add;
  p.w = w.as<T>(), p.ldw = w.stride[0], p.diagonal = combination.diagonal.as<T>();
  p.y = y.as<T>(), p.ldy = y.stride[0];
  p.alpha = static_cast<T>(combination.alpha), p.beta = static_cast<T>(combination.beta);
  p.gamma = static_cast<T>(combination.gamma), p.delta = static_cast<T>(combination.delta);
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = packs(x, kWide) && packs(own, kWide) && packs(w, kWide) && packs(y, kWide);
  const auto run = p.a.wide ? (wide ? launch_spmm<T, int64_t, kWide> : launch_spmm<T, int64_t, 1>)
                            : (wide ? launch_spmm<T, int32_t, kWide> : launch_spmm<T, int32_t, 1>);
  run(p, stream);
}

}  // namespace

void spmm(const CsrView& a, TensorView x, TensorView own, const Scales& scales, const Combination& combination,
          TensorView y, int64_t upper_from, int64_t stream) {
  constexpr const char* kOp = "spmm";
  const Sparse sparse = sparse_of(kOp, a, x.device);
  SSLSPEC_CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, kOp, ": x must be float32 or float64, got ", x.dtype);
  check_product(kOp, sparse.n, x, own, scales, combination, y, x.device);
  const DeviceGuard guard(x.device);
  const auto run = [&](auto t) {
    SpmmArgs<typename decltype(t)::type> p{};
    p.a = sparse, p.upper_from = upper_from;
    prepare_spmm(p, x, own, scales, combination, y, stream);
  };
  x.dtype == DType::f64 ? run(Type<double>{}) : run(Type<float>{});
}

}  // namespace sslspec::cuda

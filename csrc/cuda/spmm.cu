// Y = alpha * r (A (c X)) + beta * Y + (gamma + delta * diagonal) W on the GPU.
//
// Tiling: a group of kLanes lanes owns a row of Y and kLanes kWidth columns of it at a time; entries are taken in
// order, four in flight. Every element of Y is written once, by one thread: no atomics, one fixed order.
// Memory traffic: one row of X per entry (16-byte accesses where the layout allows), the index, Y. Long rows are not
// split: a row of degree k costs k gathers of one group.
// Precision policy: everything in the type of X, sums of kRun entries added up with compensation.
#include "cuda/sparse.cuh"
#include "cuda/sparse.h"
#include "sparse_checks.h"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kAhead = 4, kRun = 64;
static_assert(kRun % kAhead == 0);

template <typename T>
struct SpmmArgs {
  Sparse a;
  const T *x, *own, *row_scale, *col_scale, *w, *diagonal;
  T* y;
  int64_t ldx, ldo, ldw, ldy, b, upper_from;
  bool add_scales;
  T alpha, beta, gamma, delta;
};

template <typename T, int kWidth_, int kLanes_>
struct SpmmTraits {
  using Value = T;
  static constexpr int kWidth = kWidth_, kLanes = kLanes_;
  static constexpr int kRows = kThreads / kLanes;  // per block
};

template <typename Traits>
__global__ void __launch_bounds__(kThreads) spmm_kernel(const __grid_constant__ SpmmArgs<typename Traits::Value> p) {
  using T = typename Traits::Value;
  constexpr int kWidth = Traits::kWidth;
  using P = Pack<T, kWidth>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * Traits::kRows + threadIdx.x / Traits::kLanes;
  if (i >= p.a.n) return;
  int64_t begin = p.a.indptr[i];
  const int64_t end = p.a.indptr[i + 1], self = p.upper_from + i;
  if (p.upper_from >= 0) {
    int64_t high = end;
    while (begin < high) {  // first entry of the upper triangle
      const int64_t mid = begin + (high - begin) / 2;
      if (p.a.column(mid) < self)
        begin = mid + 1;
      else
        high = mid;
    }
  }
  const T own_scale = p.row_scale == nullptr ? T(0) : p.row_scale[i];
  const T factor = p.add_scales || p.row_scale == nullptr ? p.alpha : p.alpha * own_scale;
  const T share = p.diagonal == nullptr ? p.gamma : p.gamma + p.delta * p.diagonal[i];
  for (int64_t c = threadIdx.x % Traits::kLanes * kWidth; c < p.b; c += Traits::kLanes * kWidth) {
    P sum{}, mine{};
    if (p.own != nullptr) mine = *reinterpret_cast<const P*>(p.own + i * p.ldo + c);
    LongSum<T> total[kWidth];
    for (int64_t e = begin; e < end; e += kAhead) {
      P near[kAhead];
      T weight[kAhead];
#pragma unroll
      for (int q = 0; q < kAhead; ++q) {
        const bool there = e + q < end;
        const int64_t at = there ? e + q : e, j = p.a.column(at);
        near[q] = *reinterpret_cast<const P*>(p.x + j * p.ldx + c);
        weight[q] = p.a.template value<T>(at);
        if (p.add_scales)
          weight[q] *= own_scale + p.col_scale[j];
        else if (p.col_scale != nullptr)
          weight[q] *= p.col_scale[j];
        if (p.upper_from >= 0 && j == self) weight[q] *= T(0.5);
      }
#pragma unroll
      for (int q = 0; q < kAhead; ++q)
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const T term = p.own != nullptr ? mine.v[k] - near[q].v[k] : near[q].v[k];
          if (e + q < end) sum.v[k] += weight[q] * term;
        }
      if ((e - begin) % kRun != kRun - kAhead) continue;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) total[k].add(sum.v[k]), sum.v[k] = 0;
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum.v[k] += total[k].total;
    P out;
    P* y = reinterpret_cast<P*>(p.y + i * p.ldy + c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) out.v[k] = factor * sum.v[k];
    if (p.beta != T(0)) {
      const P old = *y;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) out.v[k] += p.beta * old.v[k];
    }
    if (p.w != nullptr) {
      const P w = *reinterpret_cast<const P*>(p.w + i * p.ldw + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) out.v[k] += share * w.v[k];
    }
    *y = out;
  }
}

template <typename T, int kWidth>
void launch_spmm(const SpmmArgs<T>& p, int64_t stream) {
  const int64_t packs_per_row = ceil_div(p.b, kWidth);
  auto run = [&](auto traits) {
    using Traits = decltype(traits);
    launch("spmm", spmm_kernel<Traits>, dim3(static_cast<unsigned>(ceil_div(p.a.n, Traits::kRows))), kThreads, 0,
           stream, p);
  };
  if (packs_per_row <= 2) return run(SpmmTraits<T, kWidth, 2>{});
  if (packs_per_row <= 4) return run(SpmmTraits<T, kWidth, 4>{});
  // a group takes several turns at a wide row: the size that leaves the fewest lanes idle, the larger one of two
  const auto turns = [&](int64_t lanes) { return ceil_div(packs_per_row, lanes) * lanes; };
  if (turns(32) <= turns(16) && turns(32) <= turns(8)) return run(SpmmTraits<T, kWidth, 32>{});
  if (turns(16) <= turns(8)) return run(SpmmTraits<T, kWidth, 16>{});
  run(SpmmTraits<T, kWidth, 8>{});
}

template <typename T>
void prepare_spmm(const Sparse& a, const TensorView& x, const TensorView& own, const TensorView& row_scale,
                  const TensorView& col_scale, const TensorView& w, const TensorView& diagonal, const TensorView& y,
                  bool add_scales, double alpha, double beta, double gamma, double delta, int64_t upper_from,
                  int64_t stream) {
  SpmmArgs<T> p{};
  p.a = a;
  p.x = x.as<T>(), p.ldx = x.stride[0], p.b = x.shape[1];
  p.own = own.as<T>(), p.ldo = own.stride[0];
  p.row_scale = row_scale.as<T>(), p.col_scale = col_scale.as<T>();
  p.w = w.as<T>(), p.ldw = w.stride[0], p.diagonal = diagonal.as<T>();
  p.y = y.as<T>(), p.ldy = y.stride[0];
  p.add_scales = add_scales, p.upper_from = upper_from;
  p.alpha = static_cast<T>(alpha), p.beta = static_cast<T>(beta), p.gamma = static_cast<T>(gamma),
  p.delta = static_cast<T>(delta);
  constexpr int kWide = 16 / sizeof(T);
  if (packs(x, kWide) && packs(own, kWide) && packs(w, kWide) && packs(y, kWide))
    launch_spmm<T, kWide>(p, stream);
  else
    launch_spmm<T, 1>(p, stream);
}

}  // namespace

void spmm(TensorView indptr, TensorView indices, TensorView values, TensorView x, TensorView own, TensorView row_scale,
          TensorView col_scale, TensorView w, TensorView diagonal, TensorView y, bool add_scales, double alpha,
          double beta, double gamma, double delta, int64_t upper_from, int64_t stream) {
  constexpr const char* kOp = "spmm";
  const int device = x.device;
  const Sparse a = sparse_of(kOp, indptr, indices, values, device);
  SSLSPEC_CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, kOp, ": x must be float32 or float64, got ", x.dtype);
  check_product(kOp, a.n, x, own, row_scale, col_scale, w, diagonal, y, add_scales, device);
  const DeviceGuard guard(device);
  const auto run = x.dtype == DType::f64 ? prepare_spmm<double> : prepare_spmm<float>;
  run(a, x, own, row_scale, col_scale, w, diagonal, y, add_scales, alpha, beta, gamma, delta, upper_from, stream);
}

}  // namespace sslspec::cuda

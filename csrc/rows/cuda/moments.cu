// Column means and variances of x, or of x, y and x - y or the covariance of x and y, in one pass over the rows.
//
// Tiling: a block owns a slab of rows and 32 columns (64 of two bytes); its 8 warps take every eighth row (Welford),
// merge in order, and write one partial (count is known from the slab). A second kernel, or the caller's, merges the
// slabs of a column in order. Memory traffic: one read of x and y, in their own type. Precision policy: float (double for double), Welford
// updates and Chan merges, in a fixed order, of the distances from the first row, so that a large mean costs no digits;
// mean squares and not sums, which overflow earlier.
#include "rows/cuda/moments.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

template <typename In>
struct MomentsArgs {
  using T = typename Computed<In>::type;
  const In *x, *y;  // y may be null
  int64_t ldx, ldy, n, d;
  Slabs slabs;
  T* parts;       // of MomentParts
  T *mean, *var;  // [operands, d]
  bool product;
};

template <typename In, int kWidth, int kOperands>  // 1, or 3: x, y and x - y or the product
__global__ void __launch_bounds__(kThreads) slab_kernel(const __grid_constant__ MomentsArgs<In> p) {
  using T = typename Computed<In>::type;
  __shared__ Moment<T> shared[kOperands][kWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t strips = ceil_div(p.d, 32 * kWidth), slab = blockIdx.x / strips;
  const int64_t k = (blockIdx.x % strips * 32 + lane) * kWidth;
  const int64_t first = p.slabs.begin(slab), last = p.slabs.end(slab);
  Moment<T> sum[kWidth][kOperands] = {};
  if (k < p.d) {
    const Pack<T, kWidth> x0 = load_wide<kWidth>(p.x + k), y0 = load_wide<kWidth>((kOperands == 3 ? p.y : p.x) + k);
#pragma unroll 2
    for (int64_t i = first + warp; i < last; i += kWarps) {
      const T inverse = T(1) / (sum[0][0].count + 1);  // one division for all
      const Pack<T, kWidth> x = load_wide<kWidth>(p.x + i * p.ldx + k);
      Pack<T, kWidth> y = x;
      if (kOperands == 3) y = load_wide<kWidth>(p.y + i * p.ldy + k);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const T dx = x.v[e] - x0.v[e], dy = y.v[e] - y0.v[e];
        sum[e][0].add(dx, inverse);
        if constexpr (kOperands == 3) {
          Moment<T>&b = sum[e][1], &third = sum[e][2];
          const T off = dy - b.mean;  // before the row is added
          b.add(dy, inverse);
          if (p.product)
            third.count += 1, third.var += ((dx - sum[e][0].mean) * off - third.var) * inverse;
          else
            third.add(dx - dy, inverse);
        }
      }
    }
  }
  for (int e = 0; e < kWidth; ++e) {
    if (e > 0) __syncthreads();
#pragma unroll
    for (int o = 0; o < kOperands; ++o) shared[o][warp][lane] = sum[e][o];
    __syncthreads();
    if (warp >= kOperands || k >= p.d) continue;  // warp o merges operand o
    Moment<T> total = shared[warp][0][lane];
    if (warp == 2 && p.product) {
      Moment<T> pair[3] = {shared[0][0][lane], shared[kOperands / 2][0][lane], total};
      for (int w = 1; w < kWarps; ++w)
        merge_product(pair, shared[0][w][lane], shared[kOperands / 2][w][lane], shared[warp][w][lane]);
      total = pair[2];
    } else {
      for (int w = 1; w < kWarps; ++w) total.merge(shared[warp][w][lane]);
    }
    T* out = p.parts + ((slab * kOperands + warp) * 2) * p.d + k + e;
    out[0] = total.mean, out[p.d] = total.var;
  }
}

template <typename In>
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ MomentsArgs<In> p) {
  using T = typename Computed<In>::type;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= p.d) return;
  const int o = blockIdx.y;
  const MomentParts<In> parts = {p.x, p.y, p.parts, p.slabs, p.d, p.product};
  const Moment<T> total = parts.merged(o, k);
  p.mean[o * p.d + k] = total.mean, p.var[o * p.d + k] = total.var;
}

template <typename T>
struct GradArgs {
  const T *x, *mean, *grad_mean, *grad_var;
  T* grad;
  int64_t ldx, ldg, n, d;
};

constexpr int kGradSlab = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) grad_kernel(const __grid_constant__ GradArgs<T> p) {
  const int64_t strips = ceil_div(p.d, 32), k = blockIdx.x % strips * 32 + threadIdx.x % 32;
  if (k >= p.d) return;
  const T slope = 2 * p.grad_var[k] / static_cast<T>(p.n), base = p.grad_mean[k] / static_cast<T>(p.n),
          mean = p.mean[k];
  const int64_t first = blockIdx.x / strips * kGradSlab, last = first + kGradSlab < p.n ? first + kGradSlab : p.n;
  for (int64_t i = first + threadIdx.x / 32; i < last; i += kWarps)
    p.grad[i * p.ldg + k] = base + slope * (p.x[i * p.ldx + k] - mean);
}

constexpr const char* kOp = "moments";

template <typename In, int kWidth>
void slabs(const MomentsArgs<In>& p, int64_t stream) {
  // one dimension: either factor may pass 65535
  const dim3 grid(static_cast<unsigned>(p.slabs.count() * ceil_div(p.d, 32 * kWidth)));
  const auto kernel = p.y == nullptr ? slab_kernel<In, kWidth, 1> : slab_kernel<In, kWidth, 3>;
  launch("moments", kernel, grid, kThreads, 0, stream, p);
}

template <typename In>
void slabs(const MomentsArgs<In>& p, bool packed, int64_t stream) {
  constexpr int kWide = sizeof(In) == 2 ? 2 : 1;
  packed ? slabs<In, kWide>(p, stream) : slabs<In, 1>(p, stream);
}

template <typename In>
MomentsArgs<In> args_of(const TensorView& x, const TensorView& y, bool product, void* parts) {
  using T = typename Computed<In>::type;
  const int64_t n = x.shape[0], d = x.shape[1];
  return {x.as<In>(), y.as<In>(), x.stride[0], y.stride[0], n, d, moment_slabs(n, d), static_cast<T*>(parts),
          nullptr,    nullptr,    product};
}

bool packed(const TensorView& x, const TensorView& y) {
  const int width = x.dtype == DType::bf16 || x.dtype == DType::f16 ? 2 : 1;
  return packs(x, width) && packs(y, width);
}

template <typename T>
void backward(const TensorView& x, const TensorView& mean, const TensorView& grad_mean, const TensorView& grad_var,
              const TensorView& grad_x, int64_t stream) {
  const GradArgs<T> p = {x.as<T>(),   mean.as<T>(),     grad_mean.as<T>(), grad_var.as<T>(), grad_x.as<T>(),
                         x.stride[0], grad_x.stride[0], x.shape[0],        x.shape[1]};
  const dim3 grid(static_cast<unsigned>(ceil_div(p.n, kGradSlab) * ceil_div(p.d, 32)));
  launch("moments_backward", grad_kernel<T>, grid, kThreads, 0, stream, p);
}

void check_input(const TensorView& x) {
  SSLSPEC_CHECK(x.device != kCpu, kOp, ": x must be on a CUDA device");
  SSLSPEC_CHECK(x.ndim == 2 && x.shape[0] >= 1, kOp, ": x must be (n, d) with n >= 1, got ", shape_text(x));
  check_matrix(kOp, "x", x, x.shape[0], x.shape[1], x.dtype, x.device);
}

}  // namespace

int64_t moments_workspace_size(int64_t n, int64_t d, int operands) {
  return moment_slabs(n, d).count() * (operands == 1 ? 1 : 3) * 2 * d;
}

void moments_forward(TensorView x, TensorView y, bool product, TensorView mean, TensorView var, const Run& run) {
  check_input(x);
  const int64_t n = x.shape[0], d = x.shape[1], operands = y.present() ? 3 : 1;
  const DType type = computed_type(x.dtype);
  if (y.present()) check_matrix(kOp, "y", y, n, d, x.dtype, x.device);
  check_matrix(kOp, "mean", mean, operands, d, type, x.device);
  check_matrix(kOp, "var", var, operands, d, type, x.device);
  SSLSPEC_CHECK(operands == 3 || !product, kOp, ": product needs y");
  SSLSPEC_CHECK(operands == 1 || (mean.stride[0] == d && var.stride[0] == d), kOp, ": mean and var must be contiguous");
  check_vector(kOp, "workspace", run.workspace, moments_workspace_size(n, d, y.present() ? 2 : 1), type, x.device);
  const DeviceGuard guard(x.device);
  dispatch_rows(kOp, x.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    using T = typename Computed<In>::type;
    MomentsArgs<In> p = args_of<In>(x, y, product, run.workspace.data);
    p.mean = mean.as<T>(), p.var = var.as<T>();
    slabs(p, packed(x, y), run.stream);
    const dim3 columns(static_cast<unsigned>(ceil_div(d, kThreads)), static_cast<unsigned>(operands));
    launch("moments", merge_kernel<In>, columns, kThreads, 0, run.stream, p);
  });
}

void moments_of_slabs(const TensorView& x, const TensorView& y, bool product, void* parts, int64_t stream) {
  dispatch_rows(kOp, x.dtype, [&](auto t) {
    using In = typename decltype(t)::type;
    slabs(args_of<In>(x, y, product, parts), packed(x, y), stream);
  });
}

void moments_backward(TensorView x, TensorView mean, TensorView grad_mean, TensorView grad_var, TensorView grad_x,
                      int64_t stream) {
  check_input(x);
  SSLSPEC_CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, kOp, ": x must be float32 or float64, got ", x.dtype);
  const int64_t d = x.shape[1];
  check_vector(kOp, "mean", mean, d, x.dtype, x.device);
  check_vector(kOp, "grad_mean", grad_mean, d, x.dtype, x.device);
  check_vector(kOp, "grad_var", grad_var, d, x.dtype, x.device);
  check_matrix(kOp, "grad_x", grad_x, x.shape[0], d, x.dtype, x.device);
  const DeviceGuard guard(x.device);
  const auto run = x.dtype == DType::f64 ? backward<double> : backward<float>;
  run(x, mean, grad_mean, grad_var, grad_x, stream);
}

}  // namespace sslspec::cuda

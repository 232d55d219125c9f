// float64 `pairwise`, for checking the other paths and for gradcheck: one warp per row, no tensor cores.
//
// Forward: running maximum over the columns in order. Backward: W_ij from the statistics, the gradient row is kept in
// the output. Columns are the rows of the transposed problem. Work n m d on the plain units; no claim to speed.
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct PairsF64 {
  const double *x, *y, *scale;
  int64_t ldx, ldy, n, m, d, scale_row, scale_col;
  const int32_t *x_ids, *y_ids;
  const int64_t *skip_indptr, *skip_indices;
  bool skip_by_column, skip_self;
  const double* bias;  // not null: sigmoid
};

__device__ bool left_out(const PairsF64& p, int64_t i, int64_t j) {
  if (p.skip_self && i == j) return true;
  if (p.x_ids != nullptr && p.x_ids[i] == p.y_ids[j]) return true;
  if (p.skip_indptr == nullptr) return false;
  const int64_t line = p.skip_by_column ? j : i, want = p.skip_by_column ? i : j, end = p.skip_indptr[line + 1];
  const int64_t k = first_at_least(p.skip_indices, p.skip_indptr[line], end, want);
  return k < end && p.skip_indices[k] == want;
}

__device__ double logit(const PairsF64& p, int64_t i, int64_t j) {  // the same in every lane
  double dot = 0;
  for (int64_t k = threadIdx.x % 32; k < p.d; k += 32) dot += p.x[i * p.ldx + k] * p.y[j * p.ldy + k];
  return warp_sum(dot) * p.scale[i * p.scale_row + j * p.scale_col] + (p.bias == nullptr ? 0.0 : *p.bias);
}

__device__ double infinity_f64() { return __longlong_as_double(0x7ff0000000000000LL); }

__global__ void __launch_bounds__(kThreads) forward_kernel(const __grid_constant__ PairsF64 p, double* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  double top = -infinity_f64(), sum = 0;
  for (int64_t j = 0; j < p.m; ++j) {
    if (left_out(p, i, j)) continue;
    const double s = logit(p, i, j);
    if (p.bias != nullptr) {
      sum += (s > 0 ? s : 0) + log1p(exp(-fabs(s)));
      continue;
    }
    const double highest = max_nan(top, s), base = highest == -infinity_f64() ? 0 : highest;
    sum = sum * exp(top - base) + exp(s - base);
    top = highest;
  }
  if (threadIdx.x % 32 == 0) out[i] = p.bias != nullptr ? sum : top + log(sum);
}

struct BackwardF64 {
  const double *x_lse, *x_grad, *y_lse, *y_grad;  // either pair may be null
  double *grad, *row_dot, *row_total;
};

__global__ void __launch_bounds__(kThreads)
    backward_kernel(const __grid_constant__ PairsF64 p, const __grid_constant__ BackwardF64 b) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  const int lane = threadIdx.x % 32;
  double* out = b.grad + i * p.d;
  for (int64_t k = lane; k < p.d; k += 32) out[k] = 0;
  double total = 0, dot = 0;
  for (int64_t j = 0; j < p.m; ++j) {
    if (left_out(p, i, j)) continue;
    const double s = logit(p, i, j);
    double w = 0;
    if (p.bias != nullptr) {
      const double e = exp(-fabs(s));
      w = (s >= 0 ? 1 : e) / (1 + e) * ((b.x_grad ? b.x_grad[i] : 0) + (b.y_grad ? b.y_grad[j] : 0));
      total += w;
    } else {
      if (b.x_grad != nullptr && b.x_grad[i] != 0) w += b.x_grad[i] * exp(s - b.x_lse[i]);
      if (b.y_grad != nullptr && b.y_grad[j] != 0) w += b.y_grad[j] * exp(s - b.y_lse[j]);
    }
    if (p.scale_col != 0) w *= p.scale[j * p.scale_col];
    for (int64_t k = lane; k < p.d; k += 32) out[k] += w * p.y[j * p.ldy + k];
  }
  const double factor = p.scale_col != 0 ? 1 : p.scale[i * p.scale_row];
  for (int64_t k = lane; k < p.d; k += 32) {
    dot += out[k] * p.x[i * p.ldx + k];
    out[k] *= factor;
  }
  dot = warp_sum(dot);
  if (lane != 0) return;
  if (b.row_dot != nullptr) b.row_dot[i] = dot;
  if (b.row_total != nullptr) b.row_total[i] = total;
}

PairsF64 pairs_f64(const PairwiseProblem& p) {
  return {p.x.as<double>(),
          p.y.as<double>(),
          static_cast<const double*>(p.scale),
          p.x.stride[0],
          p.y.stride[0],
          p.x.shape[0],
          p.y.shape[0],
          p.x.shape[1],
          p.scale_row,
          p.scale_col,
          p.x_ids,
          p.y_ids,
          p.skip_indptr,
          p.skip_indices,
          p.skip_by_column,
          p.skip_self,
          static_cast<const double*>(p.bias)};
}

}  // namespace

void pairwise_forward_f64(const PairwiseProblem& p, double* out) {
  const DeviceGuard guard(p.device);
  launch("pairwise_forward_f64", forward_kernel, dim3(static_cast<unsigned>(ceil_div(p.x.shape[0], kWarps))), kThreads,
         0, p.stream, pairs_f64(p), out);
}

void pairwise_backward_f64(const PairwiseProblem& p, const double* x_lse, const double* x_grad, const double* y_lse,
                           const double* y_grad, double* grad, double* row_dot, double* row_total) {
  const DeviceGuard guard(p.device);
  const BackwardF64 b = {x_lse, x_grad, y_lse, y_grad, grad, row_dot, row_total};
  launch("pairwise_backward_f64", backward_kernel, dim3(static_cast<unsigned>(ceil_div(p.x.shape[0], kWarps))),
         kThreads, 0, p.stream, pairs_f64(p), b);
}

}  // namespace sslspec::cuda

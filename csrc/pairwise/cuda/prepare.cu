// The small passes around the pairwise kernels: bounds of the logits per block of rows, weights of the backward pass,
// and the final merge of partial results. All are one read of O(n d) or O(n) memory.
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct BoundOperand {
  Rows rows;
  const float* scale;  // null: this operand carries no scale of its own
  int64_t scale_step;
  const int32_t* ids;
  BlockBound* out;
};

__device__ __forceinline__ float element(const unsigned char* row, int k, bool half) {
  if (half) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[k]);
  return reinterpret_cast<const float*>(row)[k];
}

// One block per kBoundRows rows of either operand, a warp per row.
__global__ void __launch_bounds__(kThreads) bounds_kernel(BoundOperand x, BoundOperand y, int64_t x_blocks, bool half) {
  __shared__ float norms[kWarps], scaled_norms[kWarps];
  __shared__ int32_t low[kWarps], high[kWarps];
  const bool left = blockIdx.x < x_blocks;
  const BoundOperand& op = left ? x : y;
  const int64_t block = left ? blockIdx.x : blockIdx.x - x_blocks;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float norm = 0, scaled = 0;
  int32_t id_min = 0x7fffffff, id_max = -0x7fffffff - 1;
  for (int r = warp; r < kBoundRows; r += kWarps) {
    const int64_t i = block * kBoundRows + r;
    if (i >= op.rows.count) break;
    const unsigned char* row = op.rows.data + i * op.rows.pitch;
    const int d = op.rows.bytes / (half ? 2 : 4);
    float square = 0;
    for (int k = lane; k < d; k += 32) {
      const float value = element(row, k, half);
      square = fmaf(value, value, square);
    }
    const float length = sqrtf(warp_sum(square));
    norm = max_nan(norm, length);
    scaled = max_nan(scaled, op.scale == nullptr ? length : length * fabsf(op.scale[i * op.scale_step]));
    if (op.ids != nullptr) id_min = min(id_min, op.ids[i]), id_max = max(id_max, op.ids[i]);
  }
  if (lane == 0) norms[warp] = norm, scaled_norms[warp] = scaled, low[warp] = id_min, high[warp] = id_max;
  __syncthreads();
  if (threadIdx.x != 0) return;
  BlockBound out = {0, 0, id_min, id_max};
  for (int w = 0; w < kWarps; ++w) {
    out.norm = max_nan(out.norm, norms[w]), out.scaled_norm = max_nan(out.scaled_norm, scaled_norms[w]);
    out.id_min = min(out.id_min, low[w]), out.id_max = max(out.id_max, high[w]);
  }
  op.out[block] = out;
}

__global__ void __launch_bounds__(kThreads)
    finish_kernel(const Partial* parts, int64_t slots, int64_t n, bool logarithm, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  if (logarithm) {
    out[i] = merged_log(parts, slots, n, i);
    return;
  }
  float total = 0;
  for (int64_t s = 0; s < slots; ++s) total += parts[s * n + i].sum;
  out[i] = total;
}

// A thread per row of x and, behind them, of y; parts: [slots, rows], null for none.
__global__ void __launch_bounds__(kThreads)
    check_kernel(const __grid_constant__ Pairs p, const Partial* x_parts, int64_t x_slots, const Partial* y_parts,
                 int64_t y_slots, int32_t* flushed) {
  __shared__ float slots[kWarps];
  const float limit = logit_limit<kWarps>(p, slots);
  if (2 * limit < kNarrow || limit > kOneSided) return;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool of_x = row < p.x.count;
  const int64_t i = of_x ? row : row - p.x.count, n = of_x ? p.x.count : p.y.count;
  const Partial* parts = of_x ? x_parts : y_parts;
  if (parts == nullptr || i >= n) return;
  float sum = 0;
  for (int64_t s = 0; s < (of_x ? x_slots : y_slots); ++s) sum += parts[s * n + i].sum;
  if (sum < static_cast<float>(of_x ? p.y.count : p.x.count) * exp2_fast(kLeast)) *flushed = 1;  // not NaN, which stays
}

__global__ void __launch_bounds__(kThreads) weights_kernel(const __grid_constant__ Pairs p, const float* lse,
                                                           const float* grad, int64_t n, bool sigmoid, Weight* out) {
  __shared__ float slots[kWarps];
  CommonShift shift = {0.0f};
  if (!sigmoid) shift = common_shift<kWarps>(p, slots);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  out[i] = sigmoid ? Weight{0.0f, grad[i]} : row_weight(shift, lse[i], grad[i]);
}

struct ReduceArgs {
  const float* parts;  // [splits, n, d + 2]: gradient, row_dot, row_total
  int64_t splits, n, d;
  const float* scale;
  int64_t scale_row;
  bool apply_scale, half;
  void* grad;
  float *row_dot, *row_total;
};

// A warp per row adds the splits in order.
__global__ void __launch_bounds__(kThreads) reduce_kernel(ReduceArgs p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= p.n) return;
  const float factor = p.apply_scale ? p.scale[i * p.scale_row] : 1.0f;
  const int64_t width = p.d + 2;
  for (int64_t k = threadIdx.x % 32; k < width; k += 32) {
    float total = 0;
    for (int64_t s = 0; s < p.splits; ++s) total += p.parts[(s * p.n + i) * width + k];
    if (k < p.d) {
      if (p.half)
        static_cast<__nv_bfloat16*>(p.grad)[i * p.d + k] = __float2bfloat16(total * factor);
      else
        static_cast<float*>(p.grad)[i * p.d + k] = total * factor;
    } else if (k == p.d) {
      if (p.row_dot != nullptr) p.row_dot[i] = total;
    } else if (p.row_total != nullptr) {
      p.row_total[i] = total;
    }
  }
}

unsigned blocks_for(int64_t n, int per_block) { return static_cast<unsigned>(ceil_div(n, per_block)); }

}  // namespace

void pairwise_bounds(const PairwiseProblem& p) {
  const DeviceGuard guard(p.device);
  const auto* scale = static_cast<const float*>(p.scale);
  const BoundOperand x = {rows_of(p.x), p.scale_row ? scale : nullptr, p.scale_row, p.x_ids, p.x_bounds};
  const BoundOperand y = {rows_of(p.y), p.scale_col ? scale : nullptr, p.scale_col, p.y_ids, p.y_bounds};
  const int64_t x_blocks = ceil_div(x.rows.count, kBoundRows);
  const int64_t y_blocks = p.symmetric ? 0 : ceil_div(y.rows.count, kBoundRows);
  launch("pairwise_bounds", bounds_kernel, dim3(static_cast<unsigned>(x_blocks + y_blocks)), kThreads, 0, p.stream, x,
         y, x_blocks, p.x.dtype == DType::bf16);
}

void pairwise_check_sums(const PairwiseProblem& p, const Partial* x_parts, const Partial* y_parts) {
  const DeviceGuard guard(p.device);
  const int64_t n = p.x.shape[0], m = p.y.shape[0];
  const PairwiseGrid grid(n, m);
  launch("pairwise_check_sums", check_kernel, dim3(blocks_for(y_parts == nullptr ? n : n + m, kThreads)), kThreads, 0,
         p.stream, pairs_of(p), x_parts, grid.y_supers, y_parts, grid.x_supers, p.flushed);
}

void pairwise_finish(const Partial* parts, int64_t slots, int64_t n, bool logarithm, float* out, int device,
                     int64_t stream) {
  const DeviceGuard guard(device);
  launch("pairwise_finish", finish_kernel, dim3(blocks_for(n, kThreads)), kThreads, 0, stream, parts, slots, n,
         logarithm, out);
}

void pairwise_row_weights(const PairwiseProblem& p, const float* lse, const float* grad, int64_t n, Weight* weights) {
  const DeviceGuard guard(p.device);
  launch("pairwise_row_weights", weights_kernel, dim3(blocks_for(n, kThreads)), kThreads, 0, p.stream, pairs_of(p), lse,
         grad, n, lse == nullptr, weights);
}

void pairwise_reduce(const PairwiseProblem& p, const PairwiseBackward& b) {
  const DeviceGuard guard(p.device);
  const ReduceArgs args = {b.parts,
                           b.splits,
                           p.x.shape[0],
                           p.x.shape[1],
                           static_cast<const float*>(p.scale),
                           p.scale_row,
                           p.scale_col == 0,
                           p.x.dtype == DType::bf16 && !b.grad_f32,
                           b.grad,
                           b.row_dot,
                           b.row_total};
  launch("pairwise_reduce", reduce_kernel, dim3(blocks_for(args.n, kWarps)), kThreads, 0, p.stream, args);
}

int64_t device_shared_limit(int device) {
  const DeviceGuard guard(device);
  return shared_limit();
}

}  // namespace sslspec::cuda

// Entry points of info_nce_loss.h, and the pass between the exponentials and the products.
//
// Tiling: a warp per row, which adds up the sums of its tiles; the block that ends last, of the last chunk, adds up the
// losses of all in the order of the rows. Memory traffic: the sums and the rows of a chunk once, the scaled rows once.
// Precision policy: float32 along a row, float64 for logarithms and sums over rows.
#include "fused/cuda/info_nce_loss.h"

#include "fused/cuda/views.cuh"
#include "pairwise/cuda/exponentials.cuh"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "info_nce_loss";

// What `stats` hold in place of weights: factors of the rows, and what the loss is added up from.
struct KeptSums {
  float* by_row;  // [n]
  unsigned* counter;
  double* partials;  // of the losses of kViewWarps rows each

  explicit KeptSums(const KeptWeights<float>& kept)
      : by_row(reinterpret_cast<float*>(kept.weights[0])), counter(reinterpret_cast<unsigned*>(kept.weights[1])),
        partials(reinterpret_cast<double*>(kept.weights[1]) + 1) {}
};

template <typename U>
struct FactorArgs {
  ViewStats<float> stats;
  Exponentials from;
  int64_t n, row0, rows, width;
  const U* x;  // all rows
  int64_t ldx;
  U* scaled;  // [rows, width]
  float *factors, *by_row;
  double weight;
  double* partials;
  unsigned* counter;
  float* loss;  // null: other chunks follow
};

template <typename U>
__global__ void __launch_bounds__(kViewThreads) factors_kernel(const __grid_constant__ FactorArgs<U> p) {
  constexpr int kWidth = 16 / sizeof(U);
  __shared__ double slots[kViewWarps];
  const int lane = threadIdx.x % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kViewWarps + threadIdx.x / 32, i = p.row0 + r;
  double loss = 0;
  if (r < p.rows) {
    constexpr double kLn2 = 0.6931471805599453;
    const Partial found = p.from.merged(r);
    const double negatives = (log2(static_cast<double>(found.sum)) + static_cast<double>(found.top)) * kLn2,
                 x = negatives - static_cast<double>(*p.stats.scale * p.stats.dot[i]);
    const float factor = static_cast<float>(p.weight * sigmoid(x)),
                own = found.sum == 0.0f ? 0.0f : factor / found.sum;  // no pair in this row: no gradient
    if (lane == 0) {
      loss = softplus(x);
      p.stats.negatives[i] = static_cast<float>(negatives);
      p.factors[i] = factor, p.factors[p.n + i] = 0, p.by_row[i] = own;
    }
    for (int64_t c = lane * kWidth; c < p.width; c += 32 * kWidth) {
      Pack<float, kWidth> row = load_wide<kWidth>(p.x + i * p.ldx + c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) row.v[k] *= own;
      store_narrow<U, kWidth>(p.scaled + r * p.width + c, row);
    }
  }
  loss = block_sum<kViewWarps>(loss, slots);
  const int64_t before = p.row0 / kViewWarps;
  if (threadIdx.x == 0) p.partials[before + blockIdx.x] = loss;
  if (p.loss == nullptr || !ends_last(p.counter)) return;
  const volatile double* partials = p.partials;
  double all = 0;
  for (int64_t b = threadIdx.x; b < before + gridDim.x; b += kViewThreads) all += partials[b];
  all = block_sum<kViewWarps>(all, slots);
  if (threadIdx.x == 0) *p.loss = static_cast<float>(p.weight * all);
}

template <typename U>
void launch_factors(const Views& v, const WeightRows& w, float* workspace, const TensorView& scaled,
                    const TensorView& loss, double weight) {
  const KeptWeights<float> kept = v.kept<float>();
  const KeptSums sums(kept);
  const TensorView x = v.operand(0);
  const FactorArgs<U> args = {v.stats<float>(),
                              Exponentials(workspace, w.rows, v.n),
                              v.n,
                              w.row0,
                              w.rows,
                              v.width,
                              x.as<U>(),
                              x.stride[0],
                              scaled.as<U>(),
                              kept.factors,
                              sums.by_row,
                              weight,
                              sums.partials,
                              sums.counter,
                              w.row0 + w.rows == v.n ? loss.as<float>() : nullptr};
  launch("info_nce_factors", factors_kernel<U>, dim3(static_cast<unsigned>(ceil_div(w.rows, kViewWarps))), kViewThreads,
         0, v.stream, args);
}

void check_form(const Views& v) {
  SSLSPEC_CHECK(v.keeps && v.form == ViewForm::rows && v.real == DType::f32, kOp,
                ": the loss of rows as one number, in float32");
}

}  // namespace

int64_t info_nce_loss_workspace_size(int64_t n, int64_t rows) { return pairwise_exponentials_size(rows, n); }

void info_nce_loss_begin(const ViewInputs& views, TensorView scale, double number, int64_t stream) {
  const Views v(views, {{}, stream}, false);
  check_form(v);
  if (scale.present()) v.check_scalar("scale", scale);
  const DeviceGuard guard(v.device);
  views_unit(v, scale, number, KeptSums(v.kept<float>()).counter, false);
}

void info_nce_loss_rows(const ViewInputs& views, int64_t row0, TensorView exponentials, TensorView scaled,
                        TensorView loss, double weight, const Run& run, bool fast) {
  const Views v(views, run, fast);
  check_form(v);
  const int pieces = v.multiplied == DType::f32 && exponentials.dtype == DType::bf16 ? kWeightPieces : 1;
  SSLSPEC_CHECK(exponentials.ndim == 2, kOp, ": exponentials must be a matrix, got ", shape_text(exponentials));
  const int64_t rows = exponentials.shape[0] / pieces;
  SSLSPEC_CHECK(rows * pieces == exponentials.shape[0] && row0 >= 0 && row0 % 128 == 0 && row0 + rows <= v.n &&
                    (rows % 128 == 0 || row0 + rows == v.n),
                kOp, ": rows ", row0, " to ", row0 + rows, " must be multiples of 128 or end at ", v.n);
  check_matrix(kOp, "exponentials", exponentials, pieces * rows, v.n, pieces == 1 ? v.multiplied : DType::bf16,
               v.device);
  check_matrix(kOp, "scaled", scaled, rows, v.width, v.multiplied, v.device);
  SSLSPEC_CHECK(rows <= 1 || scaled.stride[0] == v.width, kOp, ": scaled must be contiguous");
  v.check_scalar("loss", loss);
  const int64_t size = info_nce_loss_workspace_size(v.n, rows);
  SSLSPEC_CHECK(run.workspace.ndim == 1 && run.workspace.shape[0] >= size, kOp, ": the workspace must have ", size,
                " floats, got ", shape_text(run.workspace));
  check_vector(kOp, "workspace", run.workspace, run.workspace.shape[0], DType::f32, v.device);
  const DeviceGuard guard(v.device);
  const WeightRows w = {row0, rows, exponentials.data, exponentials.stride[0], pieces};
  float* workspace = run.workspace.as<float>();
  pairwise_exponentials(v.problem<float>(0), w, workspace);
  const auto run_factors = v.multiplied == DType::bf16 ? launch_factors<__nv_bfloat16> : launch_factors<float>;
  run_factors(v, w, workspace, scaled, loss, weight);
}

}  // namespace sslspec::cuda

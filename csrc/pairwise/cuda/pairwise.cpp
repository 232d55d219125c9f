#include "pairwise/cuda/pairwise.h"

#include <utility>

#include "common/check.h"
#include "pairwise/cuda/kernels.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "pairwise";

// The logits of a call, checked, as problems of either orientation.
struct Inputs {
  const Logits& logits;
  const TensorView& a;
  int64_t n, m, d, stream;
  bool symmetric, fast;
  DType statistics;
  int device;

  Inputs(const Logits& logits, const Run& run, bool fast)
      : logits(logits), a(logits.a), n(logits.n()), m(logits.m()), d(logits.d()), stream(run.stream),
        symmetric(logits.symmetric()), fast(fast), statistics(a.dtype == DType::f64 ? DType::f64 : DType::f32),
        device(a.device) {
    SSLSPEC_CHECK(device != kCpu, kOp, ": a must be on a CUDA device");
    SSLSPEC_CHECK(a.dtype == DType::bf16 || a.dtype == DType::f32 || a.dtype == DType::f64, kOp,
                  ": the CUDA kernels take bfloat16, float32 or float64, got ", a.dtype);
    logits.check(kOp, statistics, device);
    check_alignment("a", a);
    check_alignment("b", logits.right());
  }

  void check_alignment(const char* name, const TensorView& t) const {
    if (a.dtype == DType::f64) return;
    const int64_t size = a.dtype == DType::bf16 ? 2 : 4;
    const bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.shape[1] * size % 16 == 0 &&
                         (t.shape[0] <= 1 || t.stride[0] * size % 16 == 0);
    SSLSPEC_CHECK(aligned, kOp, ": rows of ", name, " must start at and fill multiples of 16 bytes, got shape ",
                  shape_text(t), " and row stride ", t.stride[0]);
  }

  PairwiseProblem problem(BlockBound* a_bounds, BlockBound* b_bounds) const {
    const LeftOut& left_out = logits.left_out;
    PairwiseProblem p{};
    p.x = a, p.y = logits.right();
    p.scale = logits.scale.data, p.scale_row = logits.scale.ndim, p.scale_col = 0, p.bias = logits.bias.data;
    p.x_ids = left_out.ids_a.as<int32_t>(), p.y_ids = symmetric ? p.x_ids : left_out.ids_b.as<int32_t>();
    p.skip_indptr = left_out.indptr.as<int64_t>(), p.skip_indices = left_out.indices.as<int64_t>();
    p.skip_self = left_out.self, p.symmetric = symmetric;
    p.x_bounds = a_bounds, p.y_bounds = b_bounds;
    p.precision = fast ? Precision::fast : Precision::exact;
    p.device = device, p.stream = stream;
    return p;
  }
};

PairwiseProblem transposed(const PairwiseProblem& p) {
  PairwiseProblem q = p;
  std::swap(q.x, q.y), std::swap(q.scale_row, q.scale_col), std::swap(q.x_ids, q.y_ids);
  std::swap(q.x_bounds, q.y_bounds), q.skip_by_column = !p.skip_by_column;
  return q;
}

struct Buffers {  // the workspace, laid out; base == nullptr only counts
  BlockBound *a_bounds, *b_bounds;
  Partial *a_parts, *b_parts;
  Weight *a_weights, *b_weights;
  Partial* tile_sums;
  float *a_split, *b_split, *vectors;
  int64_t size = 0;

  Buffers(float* base, int64_t n, int64_t m, int64_t d, DType dtype, bool symmetric, bool columns, int pass) {
    auto take = [&](int64_t floats) {
      float* p = base == nullptr ? nullptr : base + size;
      size += (floats + 63) / 64 * 64;
      return p;
    };
    a_bounds = reinterpret_cast<BlockBound*>(take((n + 127) / 128 * 4));
    b_bounds = symmetric ? a_bounds : reinterpret_cast<BlockBound*>(take((m + 127) / 128 * 4));
    a_parts = b_parts = nullptr, a_weights = b_weights = nullptr, a_split = b_split = vectors = nullptr,
    tile_sums = nullptr;
    if (pass == kForward) {
      const PairwiseGrid grid(n, m);
      a_parts = reinterpret_cast<Partial*>(take(2 * grid.y_supers * n));
      if (columns) b_parts = reinterpret_cast<Partial*>(take(2 * grid.x_supers * m));
      const int64_t sums = pairwise_tile_sums_size(n, m, d, dtype, symmetric, columns);
      if (sums > 0) tile_sums = reinterpret_cast<Partial*>(take(2 * sums));
      return;
    }
    a_weights = reinterpret_cast<Weight*>(take(2 * n));
    b_weights = symmetric ? a_weights : reinterpret_cast<Weight*>(columns ? take(2 * m) : nullptr);
    if (pass == kMatrix) vectors = take(pairwise_vectors_size(n, m));
    if (pass != kChained) return;
    const int64_t a_parts_count = pairwise_chained_splits(n, m),
                  b_parts_count = symmetric ? 1 : pairwise_chained_splits(m, n);
    if (a_parts_count > 1) a_split = take(a_parts_count * n * (d + 2));
    if (b_parts_count > 1) b_split = take(b_parts_count * m * (d + 2));
  }
};

Buffers buffers(const Inputs& in, const Run& run, bool columns, int pass) {
  const DType dtype = in.a.dtype;
  const int64_t size = pairwise_workspace_size(in.n, in.m, in.d, static_cast<int>(dtype), in.symmetric, columns, pass);
  check_vector(kOp, "workspace", run.workspace, size, in.statistics, in.device);
  return Buffers(run.workspace.as<float>(), in.n, in.m, in.d, dtype, in.symmetric, columns, pass);
}

void check_statistics(const Inputs& in, const TensorPair& lse, const TensorPair& grad_lse) {
  check_vector(kOp, "grad_row", grad_lse.first, in.n, in.statistics, in.device);
  if (!in.logits.bias.present()) check_vector(kOp, "row_lse", lse.first, in.n, in.statistics, in.device);
  if (!lse.second.present()) return;
  check_vector(kOp, "col_lse", lse.second, in.m, in.statistics, in.device);
  check_vector(kOp, "grad_col", grad_lse.second, in.m, in.statistics, in.device);
}

void prepare_weights(const PairwiseProblem& p, const Buffers& w, const TensorPair& lse, const TensorPair& grad_lse) {
  pairwise_bounds(p);
  const float* row_lse = p.bias == nullptr ? lse.first.as<float>() : nullptr;
  pairwise_row_weights(p, row_lse, grad_lse.first.as<float>(), p.x.shape[0], w.a_weights);
  if (lse.second.present() && !p.symmetric)
    pairwise_row_weights(p, lse.second.as<float>(), grad_lse.second.as<float>(), p.y.shape[0], w.b_weights);
}

}  // namespace

int64_t pairwise_workspace_size(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool columns, int pass) {
  if (static_cast<DType>(dtype) == DType::f64) return 0;
  return Buffers(nullptr, n, m, d, static_cast<DType>(dtype), symmetric, columns, pass).size;
}

bool pairwise_is_chained(int64_t d, int dtype, int device) {
  const auto type = static_cast<DType>(dtype);
  return type == DType::f64 || pairwise_chained_fits(d, type, device_shared_limit(device));
}

void pairwise_forward(const Logits& logits, const TensorPair& statistics, const Run& run, bool fast) {
  const Inputs in(logits, run, fast);
  const auto& [row, col] = statistics;
  check_vector(kOp, "row", row, in.n, in.statistics, in.device);
  if (col.present()) {
    SSLSPEC_CHECK(!logits.bias.present() && !in.symmetric, kOp,
                  ": column statistics belong to the rectangular softmax");
    check_vector(kOp, "col", col, in.m, in.statistics, in.device);
  }
  if (in.a.dtype == DType::f64) {
    const PairwiseProblem p = in.problem(nullptr, nullptr);
    pairwise_forward_f64(p, row.as<double>());
    if (col.present()) pairwise_forward_f64(transposed(p), col.as<double>());
    return;
  }
  const Buffers w = buffers(in, run, col.present(), kForward);
  const PairwiseProblem p = in.problem(w.a_bounds, w.b_bounds);
  const PairwiseGrid grid(in.n, in.m);
  pairwise_bounds(p);
  pairwise_statistics(p, w.a_parts, w.b_parts, w.tile_sums);
  pairwise_finish(w.a_parts, grid.y_supers, in.n, p.bias == nullptr, row.as<float>(), in.device, in.stream);
  if (col.present()) pairwise_finish(w.b_parts, grid.x_supers, in.m, true, col.as<float>(), in.device, in.stream);
}

void pairwise_backward(const Logits& logits, const TensorPair& lse, const TensorPair& grad_lse, const TensorPair& grads,
                       TensorView row_dot, TensorView row_total, const Run& run, bool fast) {
  const Inputs in(logits, run, fast);
  check_statistics(in, lse, grad_lse);
  const auto& [grad_a, grad_b] = grads;
  const DType rows = in.a.dtype;
  const DType grad_type = rows == DType::bf16 && grad_a.dtype == DType::f32 ? DType::f32 : rows;
  check_matrix(kOp, "grad_a", grad_a, in.n, in.d, grad_type, in.device);
  SSLSPEC_CHECK(in.n <= 1 || grad_a.stride[0] == in.d, kOp, ": grad_a must be contiguous");
  check_vector(kOp, "row_dot", row_dot, in.n, in.statistics, in.device);
  if (row_total.present()) check_vector(kOp, "row_total", row_total, in.n, in.statistics, in.device);
  if (grad_b.present()) {
    check_matrix(kOp, "grad_b", grad_b, in.m, in.d, grad_type, in.device);
    SSLSPEC_CHECK(in.m <= 1 || grad_b.stride[0] == in.d, kOp, ": grad_b must be contiguous");
  }
  if (rows == DType::f64) {
    const PairwiseProblem p = in.problem(nullptr, nullptr);
    // The symmetric problem is its own transpose: the column part has the same statistics.
    const double *row_lse = lse.first.as<double>(), *grad_row = grad_lse.first.as<double>();
    const double* col_lse = in.symmetric ? row_lse : lse.second.as<double>();
    const double* grad_col = in.symmetric ? grad_row : lse.second.present() ? grad_lse.second.as<double>() : nullptr;
    pairwise_backward_f64(p, row_lse, grad_row, col_lse, grad_col, grad_a.as<double>(), row_dot.as<double>(),
                          row_total.as<double>());
    if (grad_b.present())
      pairwise_backward_f64(transposed(p), col_lse, grad_col, row_lse, grad_row, grad_b.as<double>(), nullptr, nullptr);
    return;
  }
  SSLSPEC_CHECK(pairwise_is_chained(in.d, static_cast<int>(rows), in.device), kOp,
                ": the chained backward takes d <= 256, got ", in.d);
  const Buffers w = buffers(in, run, lse.second.present(), kChained);
  const PairwiseProblem p = in.problem(w.a_bounds, w.b_bounds);
  prepare_weights(p, w, lse, grad_lse);
  PairwiseBackward back{};
  back.x_weights = w.a_weights, back.y_weights = w.b_weights;
  back.grad_f32 = grad_type == DType::f32;
  back.grad = grad_a.data, back.row_dot = row_dot.as<float>(), back.row_total = row_total.as<float>();
  back.parts = w.a_split, back.splits = pairwise_chained_splits(in.n, in.m);
  pairwise_chained(p, back);
  if (!grad_b.present()) return;
  PairwiseBackward other{};
  other.x_weights = w.b_weights, other.y_weights = w.a_weights;
  other.grad_f32 = back.grad_f32, other.grad = grad_b.data;
  other.parts = w.b_split, other.splits = pairwise_chained_splits(in.m, in.n);
  pairwise_chained(transposed(p), other);
}

void pairwise_weight_rows(const Logits& logits, const TensorPair& lse, const TensorPair& grad_lse, int64_t row0,
                          TensorView weights, const Run& run, bool fast) {
  const Inputs in(logits, run, fast);
  check_statistics(in, lse, grad_lse);
  const DType type = in.a.dtype;
  SSLSPEC_CHECK(type != DType::f64, kOp, ": float64 has the chained backward only");
  SSLSPEC_CHECK(weights.ndim == 2, kOp, ": weights must be a matrix, got ", shape_text(weights));
  const int pieces = type == DType::f32 && weights.dtype == DType::bf16 ? kWeightPieces : 1;
  SSLSPEC_CHECK(weights.shape[0] % pieces == 0, kOp, ": weights in ", pieces,
                " pieces need as many times the rows, got ", shape_text(weights));
  const int64_t rows = weights.shape[0] / pieces;
  SSLSPEC_CHECK(row0 >= 0 && row0 % 128 == 0 && row0 + rows <= in.n, kOp, ": rows ", row0, " to ", row0 + rows,
                " must start at a multiple of 128 and stay below ", in.n);
  SSLSPEC_CHECK(rows % 128 == 0 || row0 + rows == in.n, kOp, ": a chunk of ", rows,
                " rows must be a multiple of 128 or the last");
  check_matrix(kOp, "weights", weights, pieces * rows, in.m, pieces == 1 ? type : DType::bf16, in.device);
  const Buffers w = buffers(in, run, lse.second.present(), kMatrix);
  const PairwiseProblem p = in.problem(w.a_bounds, w.b_bounds);
  if (row0 == 0) prepare_weights(p, w, lse, grad_lse);
  PairwiseBackward back{};
  back.x_weights = w.a_weights, back.y_weights = w.b_weights, back.vectors = w.vectors;
  pairwise_weights(p, back, {row0, rows, weights.data, weights.stride[0], pieces});
}

}  // namespace sslspec::cuda

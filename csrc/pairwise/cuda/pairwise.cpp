#include "pairwise/cuda/pairwise.h"

#include "common/check.h"
#include "pairwise/cuda/kernels.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "pairwise";

struct Inputs {
  TensorView a, b, scale, bias, ids_a, ids_b, skip_indptr, skip_indices;
  bool skip_self, fast;
  int64_t stream;

  bool symmetric() const { return !b.present(); }
  const TensorView& right() const { return symmetric() ? a : b; }
  int64_t n() const { return a.shape[0]; }
  int64_t m() const { return right().shape[0]; }
  DType statistics() const { return a.dtype == DType::f64 ? DType::f64 : DType::f32; }

  void check() const {
    const int device = a.device;
    SSLSPEC_CHECK(device != kCpu, kOp, ": a must be on a CUDA device");
    SSLSPEC_CHECK(a.ndim == 2 && right().ndim == 2, kOp, ": a and b must be matrices, got ", shape_text(a), " and ",
                  shape_text(right()));
    SSLSPEC_CHECK(a.dtype == DType::bf16 || a.dtype == DType::f32 || a.dtype == DType::f64, kOp,
                  ": the CUDA kernels take bfloat16, float32 or float64, got ", a.dtype);
    operand("a", a);
    operand("b", right());
    if (scale.ndim == 1) {
      SSLSPEC_CHECK(!symmetric(), kOp, ": scale must be a scalar when b is absent, got ", shape_text(scale));
      check_vector(kOp, "scale", scale, n(), statistics(), device);
    } else {
      check_dense(kOp, "scale", scale, 0, nullptr, statistics(), device);
    }
    if (bias.present()) check_dense(kOp, "bias", bias, 0, nullptr, statistics(), device);
    SSLSPEC_CHECK(symmetric() || ids_a.present() == ids_b.present(), kOp, ": ids_a and ids_b go together");
    if (ids_a.present()) check_vector(kOp, "ids_a", ids_a, n(), DType::i32, device);
    if (!symmetric() && ids_b.present()) check_vector(kOp, "ids_b", ids_b, m(), DType::i32, device);
    if (skip_indptr.present()) {
      SSLSPEC_CHECK(!symmetric(), kOp, ": a skip pattern needs b");
      check_vector(kOp, "skip_indptr", skip_indptr, n() + 1, DType::i64, device);
      check_vector(kOp, "skip_indices", skip_indices, skip_indices.shape[0], DType::i64, device);
    }
  }

  void operand(const char* name, const TensorView& t) const {
    check_matrix(kOp, name, t, t.shape[0], a.shape[1], a.dtype, a.device);
    if (a.dtype == DType::f64) return;
    const int64_t size = a.dtype == DType::bf16 ? 2 : 4;
    const bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.shape[1] * size % 16 == 0 &&
                         (t.shape[0] <= 1 || t.stride[0] * size % 16 == 0);
    SSLSPEC_CHECK(aligned, kOp, ": rows of ", name, " must start at and fill multiples of 16 bytes, got shape ",
                  shape_text(t), " and row stride ", t.stride[0]);
  }

  PairwiseProblem problem() const {
    PairwiseProblem p{};
    p.x = a, p.y = right();
    p.scale = scale.data, p.scale_row = scale.ndim, p.scale_col = 0;
    p.x_ids = ids_a.as<int32_t>(), p.y_ids = symmetric() ? p.x_ids : ids_b.as<int32_t>();
    p.skip_indptr = skip_indptr.as<int64_t>(), p.skip_indices = skip_indices.as<int64_t>();
    p.skip_self = skip_self, p.symmetric = symmetric();
    p.precision = fast ? Precision::fast : Precision::exact;
    p.device = a.device, p.stream = stream;
    return p;
  }
  PairwiseProblem transposed() const {
    PairwiseProblem p = problem();
    p.x = right(), p.y = a;
    p.scale_row = 0, p.scale_col = scale.ndim;
    p.x_ids = symmetric() ? ids_a.as<int32_t>() : ids_b.as<int32_t>(), p.y_ids = ids_a.as<int32_t>();
    p.skip_by_column = true;
    return p;
  }
};

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

Buffers buffers(const Inputs& in, TensorView workspace, bool columns, int pass) {
  check_vector(
      kOp, "workspace", workspace,
      pairwise_op_workspace(in.n(), in.m(), in.a.shape[1], static_cast<int>(in.a.dtype), in.symmetric(), columns, pass),
      in.statistics(), in.a.device);
  return Buffers(workspace.as<float>(), in.n(), in.m(), in.a.shape[1], in.a.dtype, in.symmetric(), columns, pass);
}

void check_statistics(const Inputs& in, const TensorView& row_lse, const TensorView& col_lse,
                      const TensorView& grad_row, const TensorView& grad_col) {
  const DType type = in.statistics();
  const int device = in.a.device;
  check_vector(kOp, "grad_row", grad_row, in.n(), type, device);
  if (!in.bias.present()) check_vector(kOp, "row_lse", row_lse, in.n(), type, device);
  if (col_lse.present()) {
    check_vector(kOp, "col_lse", col_lse, in.m(), type, device);
    check_vector(kOp, "grad_col", grad_col, in.m(), type, device);
  }
}

void prepare_weights(const Inputs& in, const PairwiseProblem& p, const Buffers& w, const TensorView& row_lse,
                     const TensorView& col_lse, const TensorView& grad_row, const TensorView& grad_col) {
  pairwise_bounds(p, w.a_bounds, w.b_bounds);
  const float* lse = in.bias.present() ? nullptr : row_lse.as<float>();
  pairwise_row_weights(p, w.a_bounds, w.b_bounds, lse, grad_row.as<float>(), in.n(), w.a_weights);
  if (col_lse.present() && !in.symmetric())
    pairwise_row_weights(p, w.a_bounds, w.b_bounds, col_lse.as<float>(), grad_col.as<float>(), in.m(), w.b_weights);
}

}  // namespace

int64_t pairwise_op_workspace(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool columns, int pass) {
  if (static_cast<DType>(dtype) == DType::f64) return 0;
  return Buffers(nullptr, n, m, d, static_cast<DType>(dtype), symmetric, columns, pass).size;
}

bool pairwise_op_chained(int64_t d, int dtype, int device) {
  const auto type = static_cast<DType>(dtype);
  return type == DType::f64 || pairwise_chained_fits(d, type, device_shared_limit(device));
}

void pairwise_op_forward(TensorView a, TensorView b, TensorView scale, TensorView bias, TensorView ids_a,
                         TensorView ids_b, TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                         TensorView row, TensorView col, TensorView workspace, bool fast, int64_t stream) {
  const Inputs in = {a, b, scale, bias, ids_a, ids_b, skip_indptr, skip_indices, skip_self, fast, stream};
  in.check();
  check_vector(kOp, "row", row, in.n(), in.statistics(), a.device);
  if (col.present()) {
    SSLSPEC_CHECK(!bias.present() && !in.symmetric(), kOp, ": column statistics belong to the rectangular softmax");
    check_vector(kOp, "col", col, in.m(), in.statistics(), a.device);
  }
  const PairwiseProblem p = in.problem();
  if (a.dtype == DType::f64) {
    pairwise_forward_f64(p, bias.as<double>(), row.as<double>());
    if (col.present()) pairwise_forward_f64(in.transposed(), nullptr, col.as<double>());
    return;
  }
  const Buffers w = buffers(in, workspace, col.present(), kForward);
  const PairwiseGrid grid(in.n(), in.m());
  pairwise_bounds(p, w.a_bounds, w.b_bounds);
  pairwise_statistics(p, bias.as<float>(), w.a_bounds, w.b_bounds, w.a_parts, w.b_parts, w.tile_sums);
  pairwise_finish(w.a_parts, grid.y_supers, in.n(), !bias.present(), row.as<float>(), a.device, stream);
  if (col.present()) pairwise_finish(w.b_parts, grid.x_supers, in.m(), true, col.as<float>(), a.device, stream);
}

void pairwise_op_backward(TensorView a, TensorView b, TensorView scale, TensorView bias, TensorView ids_a,
                          TensorView ids_b, TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                          TensorView row_lse, TensorView col_lse, TensorView grad_row, TensorView grad_col,
                          TensorView grad_a, TensorView grad_b, TensorView row_dot, TensorView row_total,
                          TensorView workspace, bool fast, int64_t stream) {
  const Inputs in = {a, b, scale, bias, ids_a, ids_b, skip_indptr, skip_indices, skip_self, fast, stream};
  in.check();
  check_statistics(in, row_lse, col_lse, grad_row, grad_col);
  const int64_t d = a.shape[1];
  const DType grad_type = a.dtype == DType::bf16 && grad_a.dtype == DType::f32 ? DType::f32 : a.dtype;
  check_matrix(kOp, "grad_a", grad_a, in.n(), d, grad_type, a.device);
  SSLSPEC_CHECK(in.n() <= 1 || grad_a.stride[0] == d, kOp, ": grad_a must be contiguous");
  check_vector(kOp, "row_dot", row_dot, in.n(), in.statistics(), a.device);
  if (row_total.present()) check_vector(kOp, "row_total", row_total, in.n(), in.statistics(), a.device);
  if (grad_b.present()) {
    check_matrix(kOp, "grad_b", grad_b, in.m(), d, grad_type, a.device);
    SSLSPEC_CHECK(in.m() <= 1 || grad_b.stride[0] == d, kOp, ": grad_b must be contiguous");
  }
  const PairwiseProblem p = in.problem(), q = in.transposed();
  if (a.dtype == DType::f64) {
    // The symmetric problem is its own transpose: the column part has the same statistics.
    const double *lse = row_lse.as<double>(), *grad = grad_row.as<double>();
    const double* other_lse = in.symmetric() ? lse : col_lse.as<double>();
    const double* other_grad = in.symmetric() ? grad : col_lse.present() ? grad_col.as<double>() : nullptr;
    pairwise_backward_f64(p, bias.as<double>(), lse, grad, other_lse, other_grad, grad_a.as<double>(),
                          row_dot.as<double>(), row_total.as<double>());
    if (grad_b.present())
      pairwise_backward_f64(q, bias.as<double>(), other_lse, other_grad, lse, grad, grad_b.as<double>(), nullptr,
                            nullptr);
    return;
  }
  SSLSPEC_CHECK(pairwise_op_chained(d, static_cast<int>(a.dtype), a.device), kOp,
                ": the chained backward takes d <= 256, got ", d);
  const Buffers w = buffers(in, workspace, col_lse.present(), kChained);
  prepare_weights(in, p, w, row_lse, col_lse, grad_row, grad_col);
  PairwiseBackward back{};
  back.x_weights = w.a_weights, back.y_weights = w.b_weights, back.bias = bias.as<float>();
  back.grad_f32 = grad_type == DType::f32;
  back.grad = grad_a.data, back.row_dot = row_dot.as<float>(), back.row_total = row_total.as<float>();
  back.parts = w.a_split, back.splits = pairwise_chained_splits(in.n(), in.m());
  pairwise_chained(p, w.a_bounds, w.b_bounds, back);
  if (!grad_b.present()) return;
  PairwiseBackward other{};
  other.x_weights = w.b_weights, other.y_weights = w.a_weights, other.bias = bias.as<float>();
  other.grad_f32 = back.grad_f32, other.grad = grad_b.data, other.parts = w.b_split,
  other.splits = pairwise_chained_splits(in.m(), in.n());
  pairwise_chained(q, w.b_bounds, w.a_bounds, other);
}

void pairwise_op_weights(TensorView a, TensorView b, TensorView scale, TensorView bias, TensorView ids_a,
                         TensorView ids_b, TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                         TensorView row_lse, TensorView col_lse, TensorView grad_row, TensorView grad_col, int64_t row0,
                         TensorView weights, TensorView workspace, bool fast, int64_t stream) {
  const Inputs in = {a, b, scale, bias, ids_a, ids_b, skip_indptr, skip_indices, skip_self, fast, stream};
  in.check();
  check_statistics(in, row_lse, col_lse, grad_row, grad_col);
  SSLSPEC_CHECK(a.dtype != DType::f64, kOp, ": float64 has the chained backward only");
  SSLSPEC_CHECK(weights.ndim == 2, kOp, ": weights must be a matrix, got ", shape_text(weights));
  const int pieces = a.dtype == DType::f32 && weights.dtype == DType::bf16 ? kWeightPieces : 1;
  SSLSPEC_CHECK(weights.shape[0] % pieces == 0, kOp, ": weights in ", pieces,
                " pieces need as many times the rows, got ", shape_text(weights));
  const int64_t rows = weights.shape[0] / pieces;
  SSLSPEC_CHECK(row0 >= 0 && row0 % 128 == 0 && row0 + rows <= in.n(), kOp, ": rows ", row0, " to ", row0 + rows,
                " must start at a multiple of 128 and stay below ", in.n());
  SSLSPEC_CHECK(rows % 128 == 0 || row0 + rows == in.n(), kOp, ": a chunk of ", rows,
                " rows must be a multiple of 128 or the last");
  check_matrix(kOp, "weights", weights, pieces * rows, in.m(), pieces == 1 ? a.dtype : DType::bf16, a.device);
  const Buffers w = buffers(in, workspace, col_lse.present(), kMatrix);
  const PairwiseProblem p = in.problem();
  if (row0 == 0) prepare_weights(in, p, w, row_lse, col_lse, grad_row, grad_col);
  PairwiseBackward back{};
  back.x_weights = w.a_weights, back.y_weights = w.b_weights, back.bias = bias.as<float>(), back.vectors = w.vectors;
  pairwise_weights(p, w.a_bounds, w.b_bounds, back, row0, rows, weights.data, weights.stride[0], pieces);
}

}  // namespace sslspec::cuda

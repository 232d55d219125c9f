#include "pairwise/soft.h"

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "pairwise/cpu/soft.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "pairwise_soft";

template <typename T>
cpu::SoftSide<T> side(const SoftLogits& logits, int64_t n, int64_t k, DType dtype) {
  const auto& [x, c, bias] = logits;
  SSLSPEC_CHECK(x.ndim == 2 && c.ndim == 2, kOp, ": rows must be (n, d) and columns (k, d), got ", shape_text(x),
                " and ", shape_text(c));
  const int64_t d = x.shape[1];
  check_matrix(kOp, "rows", x, n, d, dtype, kCpu);
  check_matrix(kOp, "columns", c, k, d, dtype, kCpu);
  if (bias.present()) check_vector(kOp, "bias", bias, k, dtype, kCpu);
  return {x.as<T>(), x.stride[0], c.as<T>(), c.stride[0], d, bias.as<T>()};
}

void check_whole(const char* name, const TensorView& t, int64_t rows, int64_t cols, DType dtype) {
  check_matrix(kOp, name, t, rows, cols, dtype, kCpu);
  SSLSPEC_CHECK(rows <= 1 || t.stride[0] == cols, kOp, ": ", name, " must be contiguous");
}

}  // namespace

int64_t pairwise_soft_workspace_size(const std::array<int64_t, 5>& sizes, int dtype) {
  int64_t size = 0;
  const auto [n, k, d, teacher_d, e] = sizes;
  dispatch_float(kOp, static_cast<DType>(dtype), [&, n = n, k = k, d = d, teacher_d = teacher_d, e = e](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_soft_workspace<T>, n, k, d, teacher_d, e);
  });
  return size;
}

void pairwise_soft(const SoftLogits& student, const SoftLogits& teacher, const std::array<TensorView, 2>& own,
                   const std::array<TensorView, 2>& product, const SoftOptions& options, const SoftResults& results,
                   const Run& run) {
  const DType dtype = student[0].dtype;
  dispatch_float(kOp, dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    cpu::PairwiseSoftArgs<T> p{};
    p.n = student[0].shape[0], p.k = student[1].shape[0];
    p.student = side<T>(student, p.n, p.k, dtype);
    const bool paired = teacher[0].present();
    if (paired) p.teacher = side<T>(teacher, p.n, p.k, dtype);
    const auto& [weight, tilt] = own;
    check_vector(kOp, "weight", weight, p.n, dtype, kCpu);
    p.weight = weight.as<T>();
    p.skip_self = options[0], p.unit = options[1], p.first = options[2], p.last = options[3];
    SSLSPEC_CHECK(!tilt.present() || !paired, kOp, ": a tilt is for rows without teachers");
    if (tilt.present()) check_vector(kOp, "tilt", tilt, p.k, dtype, kCpu);
    p.tilt = tilt.as<T>();
    const auto& [rows, entropy, column_sum, sums, grad] = results;
    check_vector(kOp, "rows", rows, p.n, dtype, kCpu);
    if (entropy.present()) check_vector(kOp, "entropy", entropy, p.n, dtype, kCpu);
    if (column_sum.present()) check_vector(kOp, "column_sum", column_sum, p.k, dtype, kCpu);
    p.rows = rows.as<T>(), p.entropy = entropy.as<T>(), p.column_sum = column_sum.as<T>();
    const auto& [left, right] = product;
    if (sums.present() || (grad.present() && p.unit)) {
      p.e = right.shape[1];
      check_matrix(kOp, "right", right, p.k, p.e, dtype, kCpu);
      p.right = right.as<T>(), p.ldr = right.stride[0];
    }
    if (sums.present()) {
      check_whole("sums", sums, p.n, p.e, dtype);
      p.sums = lent<T>(sums);
    }
    if (grad.present()) {
      SSLSPEC_CHECK(p.right == nullptr || left.shape[1] == p.e, kOp, ": left and right must have as many columns, got ",
                    left.shape[1], " and ", p.e);
      p.e = left.shape[1];
      check_matrix(kOp, "left", left, p.n, p.e, dtype, kCpu);
      check_whole("grad", grad, p.k, p.e, dtype);
      p.left = left.as<T>(), p.ldl = left.stride[0], p.grad = grad.as<T>();
    }
    const std::array<int64_t, 5> sizes{p.n, p.k, p.student.d, p.teacher.d, p.e};
    check_vector(kOp, "workspace", run.workspace, pairwise_soft_workspace_size(sizes, int(dtype)), dtype, kCpu);
    p.workspace = lent<T>(run.workspace), p.threads = run.threads;
    SSLSPEC_CALL(pairwise_soft<T>, p);
  });
}

}  // namespace sslspec

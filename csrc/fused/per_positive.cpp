#include "fused/per_positive.h"

#include "common/dispatch.h"
#include "common/workspace.h"
#include "fused/cpu/per_positive.h"
#include "pairwise/pairwise.h"
#include "simd/team.h"

namespace sslspec {

void per_positive(const ClassedRows& x, const CsrView& positives, TensorView weight, const TensorPair& lse_and_slopes,
                  TensorView rows, TensorView grad, const Run& run) {
  constexpr const char* kOp = "per_positive";
  const auto& [u, scale, ids] = x;
  const auto& [lse, slopes] = lse_and_slopes;
  SSLSPEC_CHECK(u.ndim == 2, kOp, ": u must be (n, d), got ", shape_text(u));
  const int64_t n = u.shape[0], d = u.shape[1];
  const DType kind = u.dtype;
  const bool backward = grad.present();
  check_matrix(kOp, "u", u, n, d, kind, kCpu);
  check_dense(kOp, "scale", scale, 0, nullptr, kind, kCpu);
  check_vector(kOp, "ids", ids, n, DType::i32, kCpu);
  check_vector(kOp, "weight", weight, n, kind, kCpu);
  check_vector(kOp, "lse", lse, n, kind, kCpu);
  check_vector(kOp, "slopes", slopes, n, kind, kCpu);
  check_vector(kOp, "rows", rows, n, kind, kCpu);
  if (backward) {
    check_matrix(kOp, "grad", grad, n, d, kind, kCpu);
    SSLSPEC_CHECK(n <= 1 || grad.stride[0] == d, kOp, ": grad must be contiguous");
  }
  check_vector(kOp, "workspace", run.workspace, pairwise_workspace_size(n, n, d, int(kind), true, backward), kind,
               kCpu);
  dispatch_float(kOp, kind, [&](auto type) {
    using T = typename decltype(type)::type;
    cpu::PerPositiveArgs<T> q{};
    auto& p = q.pairwise;
    p.a = p.b = u.as<T>(), p.lda = p.ldb = u.stride[0], p.n = p.m = n, p.d = d;
    p.scale = scale.as<T>(), p.ids_a = p.ids_b = ids.as<int32_t>();
    p.skip_self = p.symmetric = true, p.row_lse = lse.as<T>(), p.grad_row = slopes.as<T>(), p.grad_a = lent<T>(grad);
    p.workspace = lent<T>(run.workspace), p.threads = run.threads;
    q.positives = sparse_arguments<T>(kOp, positives);
    SSLSPEC_CHECK(q.positives.n == n, kOp, ": positives must have ", n, " rows, got ", q.positives.n);
    q.weight = weight.as<T>(), q.slopes = slopes.as<T>(), q.rows = rows.as<T>();
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(per_positive<T>, q); });
  });
}

}  // namespace sslspec

#include "pairwise/soft_self.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "pairwise/cpu/soft_self.h"
#include "pairwise/pairwise.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "pairwise_soft_self";

DType statistics(DType rows) { return rows == DType::bf16 ? DType::f32 : rows; }

template <typename T>
cpu::PairwiseArgs<T> side(const TensorPair& given, const TensorView& lse, T* workspace, int threads) {
  const auto& [x, scale] = given;
  cpu::PairwiseArgs<T> p{};
  p.a = p.b = x.as<T>(), p.lda = p.ldb = x.stride[0], p.n = p.m = x.shape[0], p.d = x.shape[1];
  p.scale = scale.as<T>(), p.skip_self = p.symmetric = true, p.row_lse = lse.as<T>();
  p.workspace = workspace, p.threads = threads;
  return p;
}

void check_side(const char* name, const TensorPair& given, int64_t n, DType rows) {
  const auto& [x, scale] = given;
  SSLSPEC_CHECK(x.ndim == 2, kOp, ": ", name, " must be (n, d), got ", shape_text(x));
  check_matrix(kOp, name, x, n, x.shape[1], rows, kCpu);
  check_dense(kOp, "scale", scale, 0, nullptr, statistics(rows), kCpu);
}

}  // namespace

int64_t pairwise_soft_self_workspace_size(const std::array<int64_t, 3>& sizes, int dtype, bool backward) {
  const auto [n, d, e] = sizes;
  return pairwise_workspace_size(n, n, d, dtype, true, backward) +
         pairwise_workspace_size(n, n, e, dtype, true, false) + 3 * cpu::soft_self_rows(n);
}

void pairwise_soft_self(const TensorPair& student, const TensorPair& teacher, TensorView weight, TensorView rows,
                        TensorView entropy, TensorView grad, const Run& run) {
  const DType dtype = student.first.dtype, kind = statistics(dtype);
  const bool backward = grad.present();
  const int64_t n = student.first.shape[0];
  check_side("student", student, n, dtype);
  check_side("teacher", teacher, n, dtype);
  check_vector(kOp, "weight", weight, n, kind, kCpu);
  check_vector(kOp, "rows", rows, n, kind, kCpu);
  check_vector(kOp, "entropy", entropy, n, kind, kCpu);
  const int64_t d = student.first.shape[1], e = teacher.first.shape[1];
  if (backward) {
    check_matrix(kOp, "grad", grad, n, d, kind, kCpu);
    SSLSPEC_CHECK(n <= 1 || grad.stride[0] == d, kOp, ": grad must be contiguous");
  }
  check_vector(kOp, "workspace", run.workspace, pairwise_soft_self_workspace_size({n, d, e}, int(dtype), backward),
               kind, kCpu);
  dispatch_float(kOp, kind, [&](auto number) {
    using T = typename decltype(number)::type;
    T* const own = lent<T>(run.workspace);
    T* const other = own + pairwise_workspace_size(n, n, d, int(dtype), true, backward);
    T* const sums = other + pairwise_workspace_size(n, n, e, int(dtype), true, false);
    cpu::SoftSelfArgs<T> p{side<T>(student, rows, own, run.threads), side<T>(teacher, entropy, other, run.threads),
                           weight.as<T>(), sums};
    p.student.grad_a = lent<T>(grad);
    if constexpr (std::is_same_v<T, float>)
      if (dtype == DType::bf16) {
        SSLSPEC_CHECK(cpu::bf16_products(), kOp, ": this processor does not multiply rows in bfloat16");
        const auto *x = student.first.as<uint16_t>(), *y = teacher.first.as<uint16_t>();
        const cpu::SoftSelfArgs<float, cpu::PairwiseBf16Args> q{{p.student, x, x}, {p.teacher, y, y}, p.weight, p.sums};
        return cpu::in_team(run.threads, [&] { SSLSPEC_CALL_BF16(pairwise_bf16_soft_self, q); });
      }
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(pairwise_soft_self<T>, p); });
  });
}

}  // namespace sslspec

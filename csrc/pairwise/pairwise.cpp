#include "pairwise/pairwise.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "pairwise/cpu/bf16.h"
#include "pairwise/cpu/pair_schedule.h"
#include "pairwise/cpu/pairwise.h"
#include "pairwise/cpu/value_and_grad.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "pairwise";

// Statistics and gradients of rows in bfloat16 are float32.
DType statistics(DType rows) { return rows == DType::bf16 ? DType::f32 : rows; }

// Checks what both passes share and fills the arguments of the CPU kernels.
template <typename T>
cpu::PairwiseArgs<T> arguments(const Logits& logits, const TensorPair& lse, const Run& run, bool backward) {
  const TensorView &a = logits.a, &b = logits.right(), &row = lse.first, &col = lse.second;
  const DType kind = statistics(a.dtype);
  logits.check(kOp, kind, kCpu);
  const int64_t n = logits.n(), m = logits.m(), d = logits.d();
  const bool symmetric = logits.symmetric();
  check_vector(kOp, "row_lse", row, n, kind, kCpu);
  if (col.present()) check_vector(kOp, "col_lse", col, m, kind, kCpu);
  check_vector(kOp, "workspace", run.workspace, pairwise_workspace_size(n, m, d, int(a.dtype), symmetric, backward),
               kind, kCpu);
  const LeftOut& left_out = logits.left_out;
  cpu::PairwiseArgs<T> p{};
  p.a = a.as<T>(), p.lda = a.stride[0], p.n = n;
  p.b = b.as<T>(), p.ldb = b.stride[0], p.m = m, p.d = d;
  p.scale = logits.scale.as<T>(), p.scale_step = logits.scale.ndim, p.bias = logits.bias.as<T>();
  p.ids_a = left_out.ids_a.as<int32_t>(), p.ids_b = symmetric ? p.ids_a : left_out.ids_b.as<int32_t>();
  p.skip_indptr = left_out.indptr.as<int64_t>(), p.skip_indices = left_out.indices.as<int64_t>();
  p.limit = logits.limit.as<T>(), p.limit_step = logits.limit.ndim;
  p.skip_self = left_out.self, p.symmetric = symmetric, p.columns = col.present();
  p.row_lse = row.as<T>(), p.col_lse = col.as<T>();
  p.workspace = lent<T>(run.workspace), p.threads = run.threads;
  return p;
}

template <typename T>
void set_gradients(cpu::PairwiseArgs<T>& p, DType dtype, const TensorView& grad_row, const TensorPair& grads) {
  const TensorView &grad_a = grads.first, &grad_b = grads.second;
  check_vector(kOp, "grad_row", grad_row, p.n, dtype, kCpu);
  check_matrix(kOp, "grad_a", grad_a, p.n, p.d, dtype, kCpu);
  SSLSPEC_CHECK(p.n <= 1 || grad_a.stride[0] == p.d, kOp, ": grad_a must be contiguous");
  if (!p.symmetric && grad_b.present()) {
    check_matrix(kOp, "grad_b", grad_b, p.m, p.d, dtype, kCpu);
    SSLSPEC_CHECK(p.m <= 1 || grad_b.stride[0] == p.d, kOp, ": grad_b must be contiguous");
  }
  p.grad_row = grad_row.as<T>(), p.grad_a = lent<T>(grad_a), p.grad_b = lent<T>(grad_b);
}

template <typename T>
void set_kept(cpu::PairwiseArgs<T>& p, const TensorView& kept) {
  if (kept.present()) check_vector(kOp, "kept", kept, 1, DType::i64, kCpu);
  p.kept = kept.as<int64_t>();
}

cpu::PairwiseBf16Args bf16_arguments(const cpu::PairwiseArgs<float>& p, const Logits& logits) {
  SSLSPEC_CHECK(cpu::bf16_products(), kOp, ": the CPU kernels of this processor take float32 or float64, got bfloat16");
  SSLSPEC_CHECK(p.scale_step == 0 || p.bias != nullptr, kOp, ": a softmax of rows in bfloat16 needs a scalar scale");
  return {p, logits.a.as<uint16_t>(), logits.right().as<uint16_t>()};
}
// kernel(arguments) for rows in bfloat16.
template <typename Kernel>
void on_bf16(const Kernel& kernel, const cpu::PairwiseArgs<float>& p, const Logits& logits) {
  const cpu::PairwiseBf16Args q = bf16_arguments(p, logits);
  cpu::in_team(p.threads, [&] { kernel(q); });
}

void check_sigmoid(const Logits& logits) {
  SSLSPEC_CHECK(!logits.symmetric() && logits.bias.present(), kOp, ": the sigmoid part needs b and bias");
}

}  // namespace

int64_t pairwise_tasks(int64_t n, int64_t m, bool symmetric, bool columns, int threads) {
  return cpu::PairTasks(cpu::Blocks(n, symmetric), cpu::Blocks(m, symmetric), symmetric, columns, threads).at_once;
}

int64_t pairwise_workspace_size(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, statistics(static_cast<DType>(dtype)), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_workspace<T>, n, m, d, symmetric, backward);
  });
  return size;
}

void pairwise_forward(const Logits& logits, const TensorPair& lse, TensorView kept, const Run& run) {
  dispatch_float(kOp, statistics(logits.a.dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(logits, lse, run, false);
    set_kept(p, kept);
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16)
        return on_bf16([](const auto& rows) { SSLSPEC_CALL_BF16(pairwise_bf16_forward, rows); }, p, logits);
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(pairwise_forward<T>, p); });
  });
}

void pairwise_backward(const Logits& logits, const TensorPair& lse, const TensorPair& grad_lse, const TensorPair& grads,
                       TensorView kept, const Run& run) {
  const DType kind = statistics(logits.a.dtype);
  dispatch_float(kOp, kind, [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(logits, lse, run, true);
    if (p.columns) check_vector(kOp, "grad_col", grad_lse.second, p.m, kind, kCpu);
    p.grad_col = grad_lse.second.as<T>();
    set_gradients(p, kind, grad_lse.first, grads);
    set_kept(p, kept);
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16)
        return on_bf16([](const auto& rows) { SSLSPEC_CALL_BF16(pairwise_bf16_backward, rows); }, p, logits);
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(pairwise_backward<T>, p); });
  });
}

void pairwise_sigmoid_forward(const Logits& logits, TensorView row_sum, const Run& run) {
  dispatch_float(kOp, statistics(logits.a.dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    check_sigmoid(logits);
    const auto p = arguments<T>(logits, {row_sum, {}}, run, false);
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16)
        return on_bf16([](const auto& rows) { SSLSPEC_CALL_BF16(pairwise_bf16_sigmoid_forward, rows); }, p, logits);
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(pairwise_sigmoid_forward<T>, p); });
  });
}

void pairwise_sigmoid_backward(const Logits& logits, TensorView grad_row, TensorView grad_bias, TensorView row_sum,
                               const TensorPair& grads, const Run& run) {
  const DType kind = statistics(logits.a.dtype);
  dispatch_float(kOp, kind, [&](auto t) {
    using T = typename decltype(t)::type;
    check_sigmoid(logits);
    auto p = arguments<T>(logits, {grad_bias, {}}, run, true);
    if (row_sum.present()) check_vector(kOp, "row_sum", row_sum, p.n, kind, kCpu);
    p.row_sum = row_sum.as<T>();
    set_gradients(p, kind, grad_row, grads);
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16)
        return on_bf16([](const auto& rows) { SSLSPEC_CALL_BF16(pairwise_bf16_sigmoid_backward, rows); }, p, logits);
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(pairwise_sigmoid_backward<T>, p); });
  });
}

int64_t pairwise_one_positive_panel_size(int64_t n, int64_t m, int dtype) {
  int64_t size = 0;
  if (static_cast<DType>(dtype) == DType::bf16) return size;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_one_positive_panel<T>, n, m);
  });
  return size;
}

void pairwise_one_positive(const Logits& logits, TensorView positive, TensorView weight, TensorView rows,
                           TensorView grad_positive, const TensorPair& grads, TensorView panel, const Run& run) {
  const DType kind = statistics(logits.a.dtype);
  dispatch_float(kOp, kind, [&](auto t) {
    using T = typename decltype(t)::type;
    SSLSPEC_CHECK(!logits.symmetric() && !logits.limit.present(), kOp, ": rows with a positive need b, and no limit");
    cpu::OnePositiveArgs<T> q{};
    auto& p = q.pairwise;
    p = arguments<T>(logits, {rows, {}}, run, true);
    set_gradients(p, kind, weight, grads);
    check_vector(kOp, "positive", positive, p.n, kind, kCpu);
    check_vector(kOp, "grad_positive", grad_positive, p.n, kind, kCpu);
    check_vector(kOp, "panel", panel, pairwise_one_positive_panel_size(p.n, p.m, int(logits.a.dtype)), kind, kCpu);
    q.positive = positive.as<T>(), q.grad_positive = grad_positive.as<T>(), q.panel = lent<T>(panel);
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16) {
        using Half = cpu::OnePositiveArgs<float, cpu::PairwiseBf16Args>;
        const Half half{bf16_arguments(p, logits), q.positive, q.grad_positive, nullptr};
        return cpu::in_team(p.threads, [&] { SSLSPEC_CALL_BF16(pairwise_bf16_one_positive, half); });
      }
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(pairwise_one_positive<T>, q); });
  });
}

}  // namespace sslspec

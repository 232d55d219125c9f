#include "pairwise/prefixes.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "pairwise/cpu/prefixes.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "pairwise_prefixes";

// Statistics, factors and gradients of rows in bfloat16 are float32.
DType statistics(DType rows) { return rows == DType::bf16 ? DType::f32 : rows; }

void check_whole(const char* name, const TensorView& t, int64_t rows, int64_t cols, DType dtype) {
  check_matrix(kOp, name, t, rows, cols, dtype, kCpu);
  SSLSPEC_CHECK(rows <= 1 || t.stride[0] == cols, kOp, ": ", name, " must be contiguous");
}

// Checks what both passes share and fills the arguments of the CPU kernels.
template <typename T>
cpu::PairwisePrefixesArgs<T> arguments(const PrefixLogits& logits, const TensorPair& lse, const Run& run,
                                       bool backward) {
  const auto& [a, b, dims, alpha, beta, ids] = logits;
  const auto& [row_lse, col_lse] = lse;
  const bool symmetric = !b.present();
  SSLSPEC_CHECK(a.ndim == 2, kOp, ": a must be (n, d), got ", shape_text(a));
  const TensorView& right = symmetric ? a : b;
  SSLSPEC_CHECK(right.ndim == 2, kOp, ": b must be (m, d), got ", shape_text(right));
  SSLSPEC_CHECK(dims.ndim == 1 && dims.shape[0] >= 1, kOp, ": dims must be (prefixes,), got ", shape_text(dims));
  const int64_t n = a.shape[0], d = a.shape[1], m = right.shape[0], prefixes = dims.shape[0];
  check_matrix(kOp, "a", a, n, d, a.dtype, kCpu);
  check_matrix(kOp, "b", right, m, d, a.dtype, kCpu);
  check_vector(kOp, "dims", dims, prefixes, DType::i64, kCpu);
  const int64_t* ends = dims.as<int64_t>();
  for (int64_t h = 0; h < prefixes; ++h)
    SSLSPEC_CHECK(ends[h] > (h == 0 ? 0 : ends[h - 1]), kOp, ": dims must ascend from 1 on, got ", ends[h], " at ", h);
  SSLSPEC_CHECK(ends[prefixes - 1] == d, kOp, ": the last of dims must be d = ", d, ", got ", ends[prefixes - 1]);
  const DType kind = statistics(a.dtype);
  check_whole("alpha", alpha, prefixes, n, kind);
  if (!symmetric) check_whole("beta", beta, prefixes, m, kind);
  SSLSPEC_CHECK(symmetric || !ids.present(), kOp, ": ids are for the symmetric case");
  if (ids.present()) check_vector(kOp, "ids", ids, n, DType::i32, kCpu);
  check_whole("row_lse", row_lse, prefixes, n, kind);
  if (col_lse.present()) check_whole("col_lse", col_lse, prefixes, m, kind);
  const int64_t size = pairwise_prefixes_workspace_size(n, m, d, prefixes, int(a.dtype), symmetric, backward);
  check_vector(kOp, "workspace", run.workspace, size, kind, kCpu);
  cpu::PairwisePrefixesArgs<T> q{};
  auto& p = q.pairs;
  p.a = a.as<T>(), p.lda = a.stride[0], p.n = n;
  p.b = right.as<T>(), p.ldb = right.stride[0], p.m = m, p.d = d;
  p.ids_a = p.ids_b = ids.as<int32_t>(), p.skip_self = true;
  p.symmetric = symmetric, p.columns = col_lse.present();
  p.row_lse = row_lse.as<T>(), p.col_lse = col_lse.as<T>();
  p.workspace = lent<T>(run.workspace), p.threads = run.threads;
  q.prefixes = prefixes, q.dims = ends;
  q.alpha = alpha.as<T>(), q.beta = symmetric ? q.alpha : beta.as<T>();
  return q;
}

// kernel(arguments) for rows in bfloat16.
template <typename Kernel>
void on_bf16(const Kernel& kernel, const cpu::PairwisePrefixesArgs<float>& p, const PrefixLogits& logits) {
  SSLSPEC_CHECK(cpu::bf16_products(), kOp, ": the CPU kernels of this processor take float32 or float64, got bfloat16");
  const TensorView& right = logits.b.present() ? logits.b : logits.a;
  const cpu::PrefixesBf16Args q{p, logits.a.as<uint16_t>(), right.as<uint16_t>()};
  cpu::in_team(p.pairs.threads, [&] { kernel(q); });
}

}  // namespace

int64_t pairwise_prefixes_workspace_size(int64_t n, int64_t m, int64_t d, int64_t prefixes, int dtype, bool symmetric,
                                         bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, statistics(static_cast<DType>(dtype)), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_prefixes_workspace<T>, n, m, d, prefixes, symmetric, backward);
  });
  return size;
}

void pairwise_prefixes_forward(const PrefixLogits& logits, const TensorPair& lse, const Run& run) {
  dispatch_float(kOp, statistics(logits.a.dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    const auto q = arguments<T>(logits, lse, run, false);
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16)
        return on_bf16([](const auto& rows) { SSLSPEC_CALL_BF16(pairwise_bf16_prefixes_forward, rows); }, q, logits);
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(pairwise_prefixes_forward<T>, q); });
  });
}

void pairwise_prefixes_backward(const PrefixLogits& logits, const TensorPair& lse, const TensorPair& grad_lse,
                                const TensorPair& grads, const TensorPair& grad_scales, const Run& run) {
  const DType kind = statistics(logits.a.dtype);
  dispatch_float(kOp, kind, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto& [grad_row, grad_col] = grad_lse;
    const auto& [grad_a, grad_b] = grads;
    const auto& [grad_alpha, grad_beta] = grad_scales;
    auto q = arguments<T>(logits, lse, run, true);
    auto& p = q.pairs;
    check_whole("grad_row", grad_row, q.prefixes, p.n, kind);
    check_whole("grad_a", grad_a, p.n, p.d, kind);
    check_whole("grad_alpha", grad_alpha, q.prefixes, p.n, kind);
    if (p.columns) check_whole("grad_col", grad_col, q.prefixes, p.m, kind);
    if (!p.symmetric) {
      check_whole("grad_b", grad_b, p.m, p.d, kind);
      check_whole("grad_beta", grad_beta, q.prefixes, p.m, kind);
    }
    p.grad_row = grad_row.as<T>(), p.grad_col = grad_col.as<T>();
    p.grad_a = lent<T>(grad_a), p.grad_b = lent<T>(grad_b);
    q.grad_alpha = grad_alpha.as<T>(), q.grad_beta = grad_beta.as<T>();
    if constexpr (std::is_same_v<T, float>)
      if (logits.a.dtype == DType::bf16)
        return on_bf16([](const auto& rows) { SSLSPEC_CALL_BF16(pairwise_bf16_prefixes_backward, rows); }, q, logits);
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(pairwise_prefixes_backward<T>, q); });
  });
}

}  // namespace sslspec

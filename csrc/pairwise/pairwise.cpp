#include "pairwise/pairwise.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "pairwise/cpu/pairwise.h"
#include "pairwise/cpu/bf16.h"
#include "pairwise/cpu/value_and_grad.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "pairwise";

// Statistics and gradients of rows in bfloat16 are float32.
DType statistics(DType rows) { return rows == DType::bf16 ? DType::f32 : rows; }

// Checks what both passes share and fills the arguments of the CPU kernels.
template <typename T>
cpu::PairwiseArgs<T> arguments(const TensorView& a, const TensorView& b, const TensorView& scale,
                               const TensorView& ids_a, const TensorView& ids_b, const TensorView& skip_indptr,
                               const TensorView& skip_indices, bool skip_self, const TensorView& row_lse,
                               const TensorView& col_lse, const TensorView& workspace, int threads, bool backward) {
  const bool symmetric = !b.present();
  SSLSPEC_CHECK(a.ndim == 2, kOp, ": a must be (n, d), got ", shape_text(a));
  const int64_t n = a.shape[0], d = a.shape[1];
  const DType kind = statistics(a.dtype);
  check_matrix(kOp, "a", a, n, d, a.dtype, kCpu);
  const TensorView& right = symmetric ? a : b;
  SSLSPEC_CHECK(right.ndim == 2, kOp, ": b must be (m, d), got ", shape_text(right));
  const int64_t m = right.shape[0];
  check_matrix(kOp, "b", right, m, d, a.dtype, kCpu);
  if (scale.ndim == 1) {
    SSLSPEC_CHECK(!symmetric, kOp, ": scale must be a scalar when b is absent, got ", shape_text(scale));
    check_vector(kOp, "scale", scale, n, kind, kCpu);
  } else {
    check_dense(kOp, "scale", scale, 0, nullptr, kind, kCpu);
  }
  SSLSPEC_CHECK(ids_a.present() == (symmetric ? ids_a.present() : ids_b.present()), kOp,
                ": ids_a and ids_b go together");
  if (ids_a.present()) check_vector(kOp, "ids_a", ids_a, n, DType::i32, kCpu);
  if (!symmetric && ids_b.present()) check_vector(kOp, "ids_b", ids_b, m, DType::i32, kCpu);
  if (skip_indptr.present()) {
    SSLSPEC_CHECK(!symmetric, kOp, ": a skip pattern needs b");
    check_vector(kOp, "skip_indptr", skip_indptr, n + 1, DType::i64, kCpu);
    check_vector(kOp, "skip_indices", skip_indices, skip_indices.shape[0], DType::i64, kCpu);
  }
  check_vector(kOp, "row_lse", row_lse, n, kind, kCpu);
  if (col_lse.present()) check_vector(kOp, "col_lse", col_lse, m, kind, kCpu);
  check_vector(kOp, "workspace", workspace, pairwise_workspace_size(n, m, d, int(a.dtype), symmetric, backward), kind,
               kCpu);
  cpu::PairwiseArgs<T> p{};
  p.a = a.as<T>(), p.lda = a.stride[0], p.n = n;
  p.b = right.as<T>(), p.ldb = right.stride[0], p.m = m, p.d = d;
  p.scale = scale.as<T>(), p.scale_step = scale.ndim;
  p.ids_a = ids_a.as<int32_t>(), p.ids_b = symmetric ? p.ids_a : ids_b.as<int32_t>();
  p.skip_indptr = skip_indptr.as<int64_t>(), p.skip_indices = skip_indices.as<int64_t>();
  p.skip_self = skip_self, p.symmetric = symmetric, p.columns = col_lse.present();
  p.row_lse = row_lse.as<T>(), p.col_lse = col_lse.as<T>();
  p.workspace = workspace.as<T>(), p.threads = threads;
  return p;
}

template <typename T>
void set_gradients(cpu::PairwiseArgs<T>& p, DType dtype, const TensorView& grad_row, const TensorView& grad_a,
                   const TensorView& grad_b) {
  check_vector(kOp, "grad_row", grad_row, p.n, dtype, kCpu);
  check_matrix(kOp, "grad_a", grad_a, p.n, p.d, dtype, kCpu);
  SSLSPEC_CHECK(p.n <= 1 || grad_a.stride[0] == p.d, kOp, ": grad_a must be contiguous");
  if (!p.symmetric && grad_b.present()) {
    check_matrix(kOp, "grad_b", grad_b, p.m, p.d, dtype, kCpu);
    SSLSPEC_CHECK(p.m <= 1 || grad_b.stride[0] == p.d, kOp, ": grad_b must be contiguous");
  }
  p.grad_row = grad_row.as<T>(), p.grad_a = grad_a.as<T>(), p.grad_b = grad_b.as<T>();
}

void on_bf16(const cpu::PairwiseArgs<float>& p, const TensorView& a, const TensorView& b, bool backward) {
  SSLSPEC_CHECK(cpu::bf16_products(), kOp, ": the CPU kernels of this processor take float32 or float64, got bfloat16");
  SSLSPEC_CHECK(b.present() && p.scale_step == 0, kOp, ": rows in bfloat16 need b and a scalar scale");
#ifdef SSLSPEC_X86_BF16
  const cpu::PairwiseBf16Args q{p, a.as<uint16_t>(), b.as<uint16_t>()};
  backward ? cpu::avx512bf16::pairwise_bf16_backward(q) : cpu::avx512bf16::pairwise_bf16_forward(q);
#endif
}

}  // namespace

int64_t pairwise_workspace_size(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, statistics(static_cast<DType>(dtype)), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_workspace<T>, n, m, d, symmetric, backward);
  });
  return size;
}

void pairwise_forward(TensorView a, TensorView b, TensorView scale, TensorView ids_a, TensorView ids_b,
                      TensorView skip_indptr, TensorView skip_indices, bool skip_self, TensorView row_lse,
                      TensorView col_lse, TensorView workspace, int threads) {
  dispatch_float(kOp, statistics(a.dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    const auto p = arguments<T>(a, b, scale, ids_a, ids_b, skip_indptr, skip_indices, skip_self, row_lse, col_lse,
                                workspace, threads, false);
    if constexpr (std::is_same_v<T, float>)
      if (a.dtype == DType::bf16) return on_bf16(p, a, b, false);
    SSLSPEC_CALL(pairwise_forward<T>, p);
  });
}

void pairwise_backward(TensorView a, TensorView b, TensorView scale, TensorView ids_a, TensorView ids_b,
                       TensorView skip_indptr, TensorView skip_indices, bool skip_self, TensorView row_lse,
                       TensorView col_lse, TensorView grad_row, TensorView grad_col, TensorView grad_a,
                       TensorView grad_b, TensorView workspace, int threads) {
  const DType kind = statistics(a.dtype);
  dispatch_float(kOp, kind, [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(a, b, scale, ids_a, ids_b, skip_indptr, skip_indices, skip_self, row_lse, col_lse, workspace,
                          threads, true);
    if (p.columns) check_vector(kOp, "grad_col", grad_col, p.m, kind, kCpu);
    p.grad_col = grad_col.as<T>();
    set_gradients(p, kind, grad_row, grad_a, grad_b);
    if constexpr (std::is_same_v<T, float>)
      if (a.dtype == DType::bf16) return on_bf16(p, a, b, true);
    SSLSPEC_CALL(pairwise_backward<T>, p);
  });
}

void pairwise_sigmoid_forward(TensorView a, TensorView b, TensorView scale, TensorView bias, bool skip_self,
                              TensorView row_sum, TensorView workspace, int threads) {
  dispatch_float(kOp, a.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    SSLSPEC_CHECK(b.present(), kOp, ": the sigmoid part needs b");
    auto p = arguments<T>(a, b, scale, {}, {}, {}, {}, skip_self, row_sum, {}, workspace, threads, false);
    check_dense(kOp, "bias", bias, 0, nullptr, a.dtype, kCpu);
    p.bias = bias.as<T>();
    SSLSPEC_CALL(pairwise_sigmoid_forward<T>, p);
  });
}

void pairwise_sigmoid_backward(TensorView a, TensorView b, TensorView scale, TensorView bias, bool skip_self,
                               TensorView grad_row, TensorView grad_bias, TensorView row_sum, TensorView grad_a,
                               TensorView grad_b, TensorView workspace, int threads) {
  dispatch_float(kOp, a.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    SSLSPEC_CHECK(b.present(), kOp, ": the sigmoid part needs b");
    auto p = arguments<T>(a, b, scale, {}, {}, {}, {}, skip_self, grad_bias, {}, workspace, threads, true);
    check_dense(kOp, "bias", bias, 0, nullptr, a.dtype, kCpu);
    p.bias = bias.as<T>();
    if (row_sum.present()) check_vector(kOp, "row_sum", row_sum, p.n, a.dtype, kCpu);
    p.row_sum = row_sum.as<T>();
    set_gradients(p, a.dtype, grad_row, grad_a, grad_b);
    SSLSPEC_CALL(pairwise_sigmoid_backward<T>, p);
  });
}

int64_t pairwise_rows_panel_size(int64_t m, int dtype) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_rows_panel<T>, m);
  });
  return size;
}

void pairwise_rows(TensorView a, TensorView b, TensorView scale, bool skip_self, TensorView positive, TensorView weight,
                   TensorView rows, TensorView pull, TensorView grad_a, TensorView grad_b, TensorView workspace,
                   TensorView panel, int threads) {
  dispatch_float(kOp, a.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    SSLSPEC_CHECK(b.present(), kOp, ": rows with a positive need b");
    cpu::PairwiseRowsArgs<T> q{};
    auto& p = q.pairwise;
    p = arguments<T>(a, b, scale, {}, {}, {}, {}, skip_self, rows, {}, workspace, threads, true);
    set_gradients(p, a.dtype, weight, grad_a, grad_b);
    check_vector(kOp, "positive", positive, p.n, a.dtype, kCpu);
    check_vector(kOp, "pull", pull, p.n, a.dtype, kCpu);
    check_vector(kOp, "panel", panel, pairwise_rows_panel_size(p.m, int(a.dtype)), a.dtype, kCpu);
    q.positive = positive.as<T>(), q.pull = pull.as<T>(), q.panel = panel.as<T>();
    SSLSPEC_CALL(pairwise_rows<T>, q);
  });
}

}  // namespace sslspec

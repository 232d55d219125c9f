#include "gram/gram.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "gram/cpu/gram.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "gram";

// Rows o of a [2, d] array, or null when it is absent.
template <typename T>
void rows_of(const char* name, const TensorView& t, int64_t rows, int64_t d, DType dtype, const T* (&out)[2]) {
  if (!t.present()) return;
  check_matrix(kOp, name, t, rows, d, dtype, kCpu);
  for (int64_t o = 0; o < rows; ++o) out[o] = t.as<T>() + o * t.stride[0];
}

template <typename T>
T* gradient(const char* name, const TensorView& t, int64_t n, int64_t d, DType dtype) {
  if (!t.present()) return nullptr;
  check_matrix(kOp, name, t, n, d, dtype, kCpu);
  SSLSPEC_CHECK(n <= 1 || t.stride[0] == d, kOp, ": ", name, " must be contiguous");
  return lent<T>(t);
}

void check_half(DType rows) {
  SSLSPEC_CHECK(rows == DType::f32 && cpu::bf16_products(), kOp, ": this processor does not multiply rows of ", rows,
                " in bfloat16");
}

}  // namespace

// The flops are 3 n d min(n, d) either way round. With the diagonal to be subtracted the dual side is only taken where
// the rank bound |C|^2 >= sum_k |C_kk|^2 d / n keeps the difference large.
bool gram_uses_dual(int64_t n, int64_t d, bool off_diagonal) { return off_diagonal ? 2 * n <= d : n <= d; }

bool gram_may_subtract(TensorView diagonal, int64_t n) {
  SSLSPEC_CHECK(diagonal.ndim == 2, kOp, ": diagonal must be (operands, d), got ", shape_text(diagonal));
  const int64_t operands = diagonal.shape[0], d = diagonal.shape[1];
  check_matrix(kOp, "diagonal", diagonal, operands, d, DType::f64, kCpu);
  if (!gram_uses_dual(n, d, true)) return false;
  for (int64_t o = 0; o < operands; ++o) {
    const double* c = diagonal.as<double>() + o * diagonal.stride[0];
    double sum = 0, squares = 0;
    for (int64_t k = 0; k < d; ++k) sum += c[k], squares += c[k] * c[k];
    if (!(squares <= 0.75 * sum * sum / static_cast<double>(n))) return false;  // NaN: the tiles show it
  }
  return true;
}

int64_t gram_workspace_size(int64_t n, int64_t d, int dtype, int operands, bool cross, bool dual) {
  int64_t size = 0;
  if (static_cast<DType>(dtype) == DType::bf16) {
    check_half(DType::f32);
    return SSLSPEC_CALL_BF16(gram_bf16_workspace, n, d, operands, cross, dual);
  }
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(gram_workspace<T>, n, d, operands, cross, dual);
  });
  return size;
}

namespace {

// What the kernels take: rows of Value, all else in T (`kind`).
template <typename T, typename Value>
cpu::GramArgs<T, Value> checked(const TensorView& x, const TensorView& y, const GramForm& form, const TensorView& value,
                                const TensorPair& grads, const Run& run, DType kind) {
  const auto& [alpha, cross, off_diagonal, shift, scale, diagonal, own, other, near, project, half, tail] = form;
  SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be (n, d), got ", shape_text(x));
  const int64_t n = x.shape[0], d = x.shape[1];
  SSLSPEC_CHECK(n > 0 && d > 0, kOp, ": x must not be empty, got ", shape_text(x));
  check_matrix(kOp, "x", x, n, d, x.dtype, kCpu);
  if (y.present()) check_matrix(kOp, "y", y, n, d, x.dtype, kCpu);
  SSLSPEC_CHECK(y.present() || !cross, kOp, ": the cross form needs y");
  const int operands = y.present() ? 2 : 1, values = cross ? 1 : operands;
  cpu::GramArgs<T, Value> p{};
  p.operands = operands, p.cross = cross, p.off_diagonal = off_diagonal, p.project = project;
  p.dual = off_diagonal ? diagonal.present() : !tail.present() && gram_uses_dual(n, d, false);
  p.n = n, p.d = d, p.alpha = alpha, p.threads = run.threads;
  p.x[0] = x.as<Value>(), p.ldx[0] = x.stride[0];
  p.x[1] = y.as<Value>(), p.ldx[1] = y.stride[0];
  rows_of("shift", shift, operands, d, kind, p.shift);
  rows_of("scale", scale, operands, d, kind, p.scale);
  rows_of("own", own, operands, d, kind, p.own);
  rows_of("other", other, operands, d, kind, p.other);
  p.near = static_cast<T>(near);
  if (tail.present()) {
    SSLSPEC_CHECK(operands == 1 && !diagonal.present(), kOp, ": tail goes with x alone, and without diagonal");
    check_vector(kOp, "tail", tail, d, kind, kCpu);
    p.tail = tail.as<T>();
  }
  SSLSPEC_CHECK(operands == 2 || (!other.present() && near == 0), kOp, ": other and near need y");
  if (half) check_half(kind);
  SSLSPEC_CHECK(!project || near == 0, kOp, ": near and project exclude each other");
  SSLSPEC_CHECK(!project || (shift.present() && scale.present()), kOp, ": project needs shift and scale");
  if (p.dual && off_diagonal) {
    check_matrix(kOp, "diagonal", diagonal, values, d, DType::f64, kCpu);
    SSLSPEC_CHECK(values == 1 || diagonal.stride[0] == d, kOp, ": diagonal must be contiguous");
    p.diagonal = diagonal.as<double>();
  }
  check_vector(kOp, "value", value, values, DType::f64, kCpu);
  p.value = value.as<double>();
  p.grad[0] = gradient<T>("grad_x", grads.first, n, d, kind);
  if (operands == 2) p.grad[1] = gradient<T>("grad_y", grads.second, n, d, kind);
  check_vector(kOp, "workspace", run.workspace,
               gram_workspace_size(n, d, int(half ? DType::bf16 : kind), operands, cross, p.dual), kind, kCpu);
  p.workspace = lent<T>(run.workspace);
  return p;
}

}  // namespace

void gram(TensorView x, TensorView y, const GramForm& form, TensorView value, const TensorPair& grads, const Run& run) {
  if (form.half && x.dtype == DType::bf16) {
    const auto p = checked<float, cpu::Bfloat16>(x, y, form, value, grads, run, DType::f32);
    return cpu::in_team(run.threads, [&] { SSLSPEC_CALL_BF16(gram_bf16, p); });
  }
  dispatch_float(kOp, x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto p = checked<T, T>(x, y, form, value, grads, run, x.dtype);
    cpu::in_team(run.threads, [&] {
      if constexpr (std::is_same_v<T, float>)
        if (form.half) return SSLSPEC_CALL_BF16(gram_bf16, p);
      SSLSPEC_CALL(gram<T>, p);
    });
  });
}

}  // namespace sslspec

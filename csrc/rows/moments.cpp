#include "rows/moments.h"

#include <utility>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "rows/cpu/moments.h"

namespace sslspec {
namespace {
constexpr const char* kOp = "moments";
}

int64_t moments_workspace_size(int64_t n, int64_t d, int operands) {
  const int64_t chunks = (n + cpu::kMomentsRows - 1) / cpu::kMomentsRows;
  return chunks <= 1 ? 0 : 2 * chunks * (operands == 2 ? 3 : 1) * d;
}

namespace {

template <typename T, typename Value>
void forward(const TensorView& x, const TensorView& y, bool product, const TensorView& mean, const TensorView& var,
             const Run& run, DType kind) {
  SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be (n, d), got ", shape_text(x));
  const int64_t n = x.shape[0], d = x.shape[1];
  SSLSPEC_CHECK(n > 0, kOp, ": x must have rows, got ", shape_text(x));
  check_matrix(kOp, "x", x, n, d, x.dtype, kCpu);
  if (y.present()) check_matrix(kOp, "y", y, n, d, x.dtype, kCpu);
  SSLSPEC_CHECK(y.present() || !product, kOp, ": product needs y");
  const int operands = y.present() ? 2 : 1;
  const int64_t statistics = operands == 2 ? 3 : 1;
  for (const auto& [name, out] : {std::pair{"mean", &mean}, std::pair{"var", &var}}) {
    check_matrix(kOp, name, *out, statistics, d, kind, kCpu);
    SSLSPEC_CHECK(statistics == 1 || out->stride[0] == d, kOp, ": ", name, " must be contiguous");
  }
  check_vector(kOp, "workspace", run.workspace, moments_workspace_size(n, d, operands), kind, kCpu);
  cpu::MomentsArgs<T, Value> p{};
  p.operands = operands, p.product = product, p.n = n, p.d = d, p.threads = run.threads;
  p.x[0] = x.as<Value>(), p.ld[0] = x.stride[0];
  p.x[1] = y.as<Value>(), p.ld[1] = y.stride[0];
  p.mean = mean.as<T>(), p.var = var.as<T>(), p.workspace = run.workspace.as<T>();
  SSLSPEC_CALL(moments_forward, p);
}

}  // namespace

void moments_forward(TensorView x, TensorView y, bool product, TensorView mean, TensorView var, const Run& run) {
  if (x.dtype == DType::bf16) return forward<float, cpu::Bfloat16>(x, y, product, mean, var, run, DType::f32);
  dispatch_float(kOp, x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    forward<T, T>(x, y, product, mean, var, run, x.dtype);
  });
}

void moments_backward(TensorView x, TensorView mean, TensorView grad_mean, TensorView grad_var, TensorView grad_x,
                      int threads) {
  dispatch_float(kOp, x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be (n, d), got ", shape_text(x));
    const int64_t n = x.shape[0], d = x.shape[1];
    check_matrix(kOp, "x", x, n, d, x.dtype, kCpu);
    check_vector(kOp, "mean", mean, d, x.dtype, kCpu);
    check_vector(kOp, "grad_mean", grad_mean, d, x.dtype, kCpu);
    check_vector(kOp, "grad_var", grad_var, d, x.dtype, kCpu);
    check_matrix(kOp, "grad_x", grad_x, n, d, x.dtype, kCpu);
    SSLSPEC_CHECK(n <= 1 || grad_x.stride[0] == d, kOp, ": grad_x must be contiguous");
    cpu::MomentsBackwardArgs<T> p{};
    p.x = x.as<T>(), p.ld = x.stride[0], p.n = n, p.d = d, p.mean = mean.as<T>();
    p.grad_mean = grad_mean.as<T>(), p.grad_var = grad_var.as<T>(), p.grad = lent<T>(grad_x), p.threads = threads;
    SSLSPEC_CALL(moments_backward<T>, p);
  });
}

}  // namespace sslspec

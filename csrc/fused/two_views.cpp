#include "fused/two_views.h"

#include "common/check.h"
#include "common/dispatch.h"
#include "fused/cpu/two_views.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "two_views";

void check_views(const char* name, const TensorView& t, const TensorView& u, int ndim) {  // [2, n, d] or [2, n]
  check_dense(kOp, name, t, ndim, u.shape, u.dtype, kCpu);
  int64_t size = 1;
  for (int i = ndim - 1; i >= 0; size *= t.shape[i--])
    SSLSPEC_CHECK(t.shape[i] <= 1 || t.stride[i] == size, kOp, ": ", name, " must be contiguous");
}

// Checks what both passes share and fills the arguments of the CPU kernels.
template <typename T>
cpu::TwoViewsArgs<T> arguments(const TensorView& scale, const TensorView& u, const TensorView& norm,
                               const TensorView& negatives, const Run& run, bool backward) {
  SSLSPEC_CHECK(u.ndim == 3 && u.shape[0] == 2, kOp, ": u must be (2, n, d), got ", shape_text(u));
  check_views("u", u, u, 3);
  check_views("norm", norm, u, 2);
  check_views("negatives", negatives, u, 2);
  check_dense(kOp, "scale", scale, 0, nullptr, u.dtype, kCpu);
  const int64_t n = u.shape[1], d = u.shape[2];
  check_vector(kOp, "workspace", run.workspace, two_views_workspace_size(n, d, int(u.dtype), backward), u.dtype, kCpu);
  cpu::TwoViewsArgs<T> p{};
  p.n = n, p.d = d, p.scale = scale.as<T>(), p.u = u.as<T>(), p.norm = norm.as<T>();
  p.negatives = negatives.as<T>(), p.workspace = run.workspace.as<T>(), p.threads = run.threads;
  return p;
}

}  // namespace

int64_t two_views_workspace_size(int64_t n, int64_t d, int dtype, bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(two_views_workspace<T>, n, d, backward);
  });
  return size;
}

void two_views_forward(TensorView z1, TensorView z2, TensorView scale, TensorView u, TensorView norm,
                       TensorView negatives, TensorView rows, const Run& run) {
  dispatch_float(kOp, u.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(scale, u, norm, negatives, run, false);
    check_matrix(kOp, "z1", z1, p.n, p.d, u.dtype, kCpu);
    check_matrix(kOp, "z2", z2, p.n, p.d, u.dtype, kCpu);
    check_views("rows", rows, u, 2);
    p.z[0] = z1.as<T>(), p.ldz[0] = z1.stride[0];
    p.z[1] = z2.as<T>(), p.ldz[1] = z2.stride[0];
    p.rows = rows.as<T>();
    SSLSPEC_CALL(two_views_forward<T>, p);
  });
}

void two_views_backward(TensorView scale, TensorView u, TensorView norm, TensorView negatives, TensorView grad,
                        TensorView grad_z, TensorView grad_scale, const Run& run) {
  dispatch_float(kOp, u.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(scale, u, norm, negatives, run, true);
    check_views("grad", grad, u, 2);
    check_views("grad_z", grad_z, u, 3);
    check_dense(kOp, "grad_scale", grad_scale, 0, nullptr, u.dtype, kCpu);
    p.grad = grad.as<T>(), p.grad_z = grad_z.as<T>(), p.grad_scale = grad_scale.as<T>();
    SSLSPEC_CALL(two_views_backward<T>, p);
  });
}

}  // namespace sslspec

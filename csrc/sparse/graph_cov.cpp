#include "sparse/graph_cov.h"

#include "common/dispatch.h"
#include "sparse/cpu/graph_cov.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "graph_cov";

void check_compact(const char* name, const TensorView& t) {
  SSLSPEC_CHECK(t.shape[0] <= 1 || t.stride[0] == t.shape[1], kOp, ": ", name, " must be contiguous");
}

}  // namespace

int64_t graph_cov_workspace_size(int64_t n, int64_t d, int64_t e, int dtype) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto type) {
    using T = typename decltype(type)::type;
    size = d * e * SSLSPEC_CALL(graph_cov_slots<T>, n, d, e);
  });
  return size;
}

void graph_cov(const CsrView& a, TensorView x, TensorView y, TensorView out, const Run& run) {
  dispatch_float(kOp, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cpu::GraphCovArgs<T> p{};
    p.a = sparse_arguments<T>(kOp, a);
    p.a.upper = !y.present();
    const TensorView& right = p.a.upper ? x : y;
    SSLSPEC_CHECK(x.ndim == 2 && right.ndim == 2, kOp, ": x and y must be matrices, got ", shape_text(x), " and ",
                  shape_text(right));
    const int64_t n = p.a.n, d = x.shape[1], e = right.shape[1];
    check_matrix(kOp, "x", x, n, d, x.dtype, kCpu);
    check_matrix(kOp, "y", right, right.shape[0], e, x.dtype, kCpu);
    check_matrix(kOp, "out", out, d, e, x.dtype, kCpu);
    check_compact("out", out);
    check_vector(kOp, "workspace", run.workspace, graph_cov_workspace_size(n, d, e, static_cast<int>(x.dtype)), x.dtype,
                 kCpu);
    p.x = x.as<T>(), p.ldx = x.stride[0], p.d = d;
    p.y = right.as<T>(), p.ldy = right.stride[0], p.e = e;
    p.out = out.as<T>(), p.slots = run.workspace.as<T>(), p.threads = run.threads;
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(graph_cov<T>, p); });
  });
}

int64_t graph_cov_apply_workspace_size(int64_t e, int64_t d, int dtype) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto type) {
    using T = typename decltype(type)::type;
    size = SSLSPEC_CALL(graph_cov_apply_workspace<T>, e, d);
  });
  return size;
}

void graph_cov_apply(const CsrView& a, TensorView y, TensorView mat, TensorView u, TensorView v, TensorView out,
                     const Run& run) {
  dispatch_float(kOp, y.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cpu::GraphCovApplyArgs<T> p{};
    p.a = sparse_arguments<T>(kOp, a);
    SSLSPEC_CHECK(y.ndim == 2 && mat.ndim == 2, kOp, ": y and mat must be matrices, got ", shape_text(y), " and ",
                  shape_text(mat));
    const int64_t n = p.a.n, e = y.shape[1], d = mat.shape[1];
    check_matrix(kOp, "y", y, y.shape[0], e, y.dtype, kCpu);
    check_matrix(kOp, "mat", mat, e, d, y.dtype, kCpu);
    check_matrix(kOp, "out", out, n, d, y.dtype, kCpu);
    check_vector(kOp, "workspace", run.workspace, graph_cov_apply_workspace_size(e, d, static_cast<int>(y.dtype)),
                 y.dtype, kCpu);
    SSLSPEC_CHECK(u.present() == v.present(), kOp, ": u and v come together");
    if (u.present()) {
      check_vector(kOp, "u", u, n, y.dtype, kCpu);
      check_vector(kOp, "v", v, d, y.dtype, kCpu);
      p.u = u.as<T>(), p.v = v.as<T>();
    }
    p.y = y.as<T>(), p.ldy = y.stride[0], p.e = e;
    p.m = mat.as<T>(), p.ldm = mat.stride[0], p.d = d;
    p.panels = run.workspace.as<T>(), p.out = out.as<T>(), p.ldo = out.stride[0], p.threads = run.threads;
    SSLSPEC_CALL(graph_cov_apply<T>, p);
  });
}

}  // namespace sslspec

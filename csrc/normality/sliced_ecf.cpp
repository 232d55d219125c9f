#include "normality/sliced_ecf.h"

#include "common/check.h"
#include "common/dispatch.h"
#include "normality/check.h"
#include "normality/cpu/sliced_ecf.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "sliced_ecf";

}  // namespace

int64_t sliced_ecf_workspace_size(int64_t views, int64_t n, int64_t d, int64_t directions, int dtype) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(sliced_ecf_workspace<T>, views, n, d, directions);
  });
  return size;
}

void sliced_ecf(TensorView z, TensorView directions, const Quadrature& quadrature, double factor, TensorView values,
                TensorView grad, const Run& run) {
  const TensorView &weights = quadrature.weights, &targets = quadrature.targets;
  check_views(kOp, z);
  const int64_t views = z.shape[0], n = z.shape[1], d = z.shape[2];
  SSLSPEC_CHECK(directions.ndim == 2 && directions.shape[1] >= 1, kOp, ": directions must be (d, S) with S >= 1, got ",
                shape_text(directions));
  const int64_t count = directions.shape[1], knots = weights.shape[0];
  check_matrix(kOp, "directions", directions, d, count, z.dtype, kCpu);
  check_vector(kOp, "weights", weights, knots, DType::f64, kCpu);
  check_vector(kOp, "targets", targets, knots, DType::f64, kCpu);
  SSLSPEC_CHECK(knots >= 1, kOp, ": there must be at least 1 knot, got ", knots);
  check_vector(kOp, "values", values, views, DType::f64, kCpu);
  if (grad.present()) check_contiguous(kOp, "grad", grad, 3, z.shape, z.dtype);
  check_vector(kOp, "workspace", run.workspace, sliced_ecf_workspace_size(views, n, d, count, int(z.dtype)), z.dtype,
               kCpu);
  dispatch_float(kOp, z.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    cpu::SlicedEcfArgs<T> p{};
    p.z = z.as<T>(), p.ldv = z.stride[0], p.ldz = z.stride[1], p.views = views, p.n = n, p.d = d;
    p.directions = directions.as<T>(), p.lda = directions.stride[0], p.count = count;
    p.weights = weights.as<double>(), p.targets = targets.as<double>(), p.knots = knots;
    p.step = quadrature.step, p.factor = factor;
    p.values = values.as<double>(), p.grad = grad.as<T>(), p.workspace = run.workspace.as<T>(), p.threads = run.threads;
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(sliced_ecf<T>, p); });
  });
}

}  // namespace sslspec

#include "normality/sliced_ecf.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "normality/check.h"
#include "normality/cpu/sliced_ecf.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "sliced_ecf";

// What all visits check and pass on.
template <typename Fill>
void visit(const TensorView& z, const TensorView& directions, int64_t knots, double step, const Run& run,
           const Fill& fill) {
  check_views(kOp, z);
  const int64_t views = z.shape[0], n = z.shape[1], d = z.shape[2];
  SSLSPEC_CHECK(directions.ndim == 2 && directions.shape[1] >= 1, kOp, ": directions must be (d, S) with S >= 1, got ",
                shape_text(directions));
  const int64_t count = directions.shape[1];
  check_matrix(kOp, "directions", directions, d, count, z.dtype, kCpu);
  SSLSPEC_CHECK(knots >= 1, kOp, ": there must be at least 1 knot, got ", knots);
  check_vector(kOp, "workspace", run.workspace, sliced_ecf_workspace_size(views, n, d, count, int(z.dtype)), z.dtype,
               kCpu);
  dispatch_float(kOp, z.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    cpu::SlicedEcfArgs<T> p{};
    p.z = z.as<T>(), p.ldv = z.stride[0], p.ldz = z.stride[1], p.views = views, p.n = n, p.d = d;
    p.directions = directions.as<T>(), p.lda = directions.stride[0], p.count = count;
    p.knots = knots, p.step = step, p.workspace = run.workspace.as<T>(), p.threads = run.threads;
    fill(p);
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(sliced_ecf<T>, p); });
  });
}

// [views, 2 knots, S]; returns the number of knots.
int64_t check_sums(const char* name, const TensorView& t, const TensorView& z, const TensorView& directions) {
  SSLSPEC_CHECK(t.ndim == 3 && t.shape[1] % 2 == 0, kOp, ": ", name, " must be (views, 2 knots, S), got ",
                shape_text(t));
  const int64_t shape[3] = {z.shape[0], t.shape[1], directions.shape[1]};
  check_contiguous(kOp, name, t, 3, shape, DType::f64);
  return t.shape[1] / 2;
}

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
  const int64_t knots = weights.shape[0];
  check_vector(kOp, "weights", weights, knots, DType::f64, kCpu);
  check_vector(kOp, "targets", targets, knots, DType::f64, kCpu);
  check_vector(kOp, "values", values, z.shape[0], DType::f64, kCpu);
  if (grad.present()) check_contiguous(kOp, "grad", grad, 3, z.shape, z.dtype);
  visit(z, directions, knots, quadrature.step, run, [&](auto& p) {
    p.weights = weights.as<double>(), p.targets = targets.as<double>(), p.factor = factor;
    p.values = values.as<double>(), p.grad = grad.as<std::decay_t<decltype(*p.grad)>>();
  });
}

void sliced_ecf_sums(TensorView z, TensorView directions, double step, TensorView sums, const Run& run) {
  const int64_t knots = check_sums("sums", sums, z, directions);
  visit(z, directions, knots, step, run, [&](auto& p) { p.sums = sums.as<double>(); });
}

void sliced_ecf_gradient(TensorView z, TensorView directions, double step, TensorView coefficients, TensorView grad,
                         const Run& run) {
  const int64_t knots = check_sums("coefficients", coefficients, z, directions);
  check_contiguous(kOp, "grad", grad, 3, z.shape, z.dtype);
  visit(z, directions, knots, step, run, [&](auto& p) {
    p.coefficients = coefficients.as<double>(), p.grad = grad.as<std::decay_t<decltype(*p.grad)>>();
  });
}

}  // namespace sslspec

#include "normality/pairwise_kernel.h"

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "normality/check.h"
#include "normality/cpu/pairwise_kernel.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "pairwise_kernel";

}  // namespace

int64_t pairwise_kernel_workspace_size(int64_t views, int64_t n, int64_t count, int64_t d, int dtype, bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(pairwise_kernel_workspace<T>, views, n, count, d, backward);
  });
  return size;
}

void pairwise_kernel_lengths(TensorView z, TensorView out, int threads) {
  check_views(kOp, z);
  check_contiguous(kOp, "out", out, 2, z.shape, DType::f64);
  dispatch_float(kOp, z.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    SSLSPEC_CALL(pairwise_kernel_lengths<T>, z.as<T>(), z.stride[0], z.stride[1], z.shape[0], z.shape[1], z.shape[2],
                 out.as<double>(), threads);
  });
}

void pairwise_kernel_series(TensorView r, TensorView table, double top, TensorView values) {
  SSLSPEC_CHECK(r.ndim == 1 && table.ndim == 2 && table.shape[1] >= 1, kOp,
                ": r must be (n,) and table (k, terms), got ", shape_text(r), " and ", shape_text(table));
  const int64_t n = r.shape[0], rows = table.shape[0], terms = table.shape[1], shape[2] = {rows, n};
  check_vector(kOp, "r", r, n, DType::f64, kCpu);
  check_contiguous(kOp, "table", table, 2, table.shape, DType::f64);
  check_contiguous(kOp, "values", values, 2, shape, DType::f64);
  const double* squared = r.as<double>();
  for (int64_t i = 0; i < rows; ++i) {
    const double* c = table.as<double>() + i * terms;
    double* out = values.as<double>() + i * n;
    constexpr int64_t kLanes = 8;
    for (int64_t j0 = 0; j0 < n; j0 += kLanes) {  // Clenshaw's sum, kLanes values together
      double x[kLanes] = {}, b1[kLanes] = {}, b2[kLanes] = {};
      const int64_t count = n - j0 < kLanes ? n - j0 : kLanes;
      for (int64_t l = 0; l < count; ++l) x[l] = 1 - 2 * squared[j0 + l] / top;
      for (int64_t m = terms - 1; m > 0; --m)
        for (int64_t l = 0; l < kLanes; ++l) {
          const double b = 2 * x[l] * b1[l] + (c[m] - b2[l]);
          b2[l] = b1[l], b1[l] = b;
        }
      for (int64_t l = 0; l < count; ++l) out[j0 + l] = x[l] * b1[l] + (c[0] - b2[l]);
    }
  }
}

void pairwise_kernel(TensorView z, const KernelRows& rows, const Radial& radial, double factor, TensorView values,
                     TensorView grad, const Run& run) {
  const TensorView& table = radial.table;
  const int64_t first = rows.first, count = rows.count;
  check_views(kOp, z);
  const int64_t views = z.shape[0], n = z.shape[1], d = z.shape[2];
  check_contiguous(kOp, "lengths", rows.lengths, 2, z.shape, DType::f64);
  check_contiguous(kOp, "offsets", rows.offsets, 2, z.shape, DType::f64);
  check_contiguous(kOp, "slopes", rows.slopes, 2, z.shape, DType::f64);
  check_vector(kOp, "values", values, views, DType::f64, kCpu);
  radial.check(kOp, kCpu);
  SSLSPEC_CHECK(first >= 0 && count >= 1 && first + count <= n, kOp, ": rows must lie in 0 ... ", n, ", got ", first,
                " + ", count);
  const int64_t own[3] = {views, count, d};
  if (grad.present()) check_contiguous(kOp, "grad", grad, 3, own, z.dtype);
  check_vector(kOp, "workspace", run.workspace,
               pairwise_kernel_workspace_size(views, n, count, d, int(z.dtype), grad.present()), z.dtype, kCpu);
  dispatch_float(kOp, z.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    cpu::PairwiseKernelArgs<T> p{};
    p.z = z.as<T>(), p.ldv = z.stride[0], p.ldz = z.stride[1], p.views = views, p.n = n, p.d = d;
    p.lengths = rows.lengths.as<double>(), p.offsets = rows.offsets.as<double>(), p.slopes = rows.slopes.as<double>();
    p.first = first, p.count = count, p.radial = static_cast<RadialKind>(radial.kind);
    p.parameter = radial.parameter, p.at_zero = radial.at_zero, p.factor = factor;
    p.table = table.as<double>(), p.terms = table.present() ? table.shape[1] : 0;
    p.values = values.as<double>(), p.grad = lent<T>(grad), p.workspace = lent<T>(run.workspace),
    p.threads = run.threads;
    cpu::in_team(run.threads, [&] { SSLSPEC_CALL(pairwise_kernel<T>, p); });
  });
}

}  // namespace sslspec

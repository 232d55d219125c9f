#include "basis/basis.h"

#include "common/dispatch.h"
#include "basis/cpu/basis.h"

namespace sslspec {

int64_t basis_gram_workspace_size(int64_t n, int64_t p, int64_t q) { return cpu::gram_chunks(n) * p * q; }

void basis_gram(const std::vector<TensorView>& a, TensorView b, TensorView w, TensorView g, bool exact,
                const Run& run) {
  constexpr const char* kOp = "basis_gram";
  dispatch_float(kOp, b.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    SSLSPEC_CHECK(b.ndim == 2, kOp, ": b must be (n, q), got ", shape_text(b));
    SSLSPEC_CHECK(a.size() <= cpu::kBasisTerms, kOp, ": a must have at most ", cpu::kBasisTerms, " blocks, got ",
                  a.size());
    cpu::BasisGramArgs<T> args{};
    args.n = b.shape[0], args.q = b.shape[1];
    check_matrix(kOp, "b", b, args.n, args.q, b.dtype, kCpu);
    for (const TensorView& block : a) {
      const int64_t m = block.shape[1];
      check_matrix(kOp, "a", block, args.n, m, b.dtype, kCpu);
      args.a[args.terms++] = {block.as<T>(), block.stride[0], m};
      args.p += m;
    }
    if (w.present()) check_vector(kOp, "w", w, args.n, b.dtype, kCpu);
    check_matrix(kOp, "g", g, args.p, args.q, DType::f64, kCpu);
    SSLSPEC_CHECK(args.p <= 1 || g.stride[0] == args.q, kOp, ": g must be contiguous, got row stride ", g.stride[0]);
    check_vector(kOp, "workspace", run.workspace, basis_gram_workspace_size(args.n, args.p, args.q), DType::f64, kCpu);
    args.b = b.as<T>(), args.ldb = b.stride[0], args.w = w.as<T>();
    args.g = g.as<double>(), args.workspace = run.workspace.as<double>();
    args.exact = exact, args.threads = run.threads;
    SSLSPEC_CALL(basis_gram<T>, args);
  });
}

void basis_combine(TensorView y, const std::vector<TensorView>& v, const std::vector<TensorView>& c, double beta,
                   int threads) {
  constexpr const char* kOp = "basis_combine";
  dispatch_float(kOp, y.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    SSLSPEC_CHECK(y.ndim == 2, kOp, ": y must be (n, q), got ", shape_text(y));
    SSLSPEC_CHECK(v.size() == c.size() && v.size() <= cpu::kBasisTerms, kOp,
                  ": v and c must be lists of equal length, at most ", cpu::kBasisTerms, ", got ", v.size(), " and ",
                  c.size());
    cpu::BasisCombineArgs<T> args{};
    args.n = y.shape[0], args.q = y.shape[1];
    check_matrix(kOp, "y", y, args.n, args.q, y.dtype, kCpu);
    for (size_t t = 0; t < v.size(); ++t) {
      const int64_t m = v[t].shape[1];
      check_matrix(kOp, "v", v[t], args.n, m, y.dtype, kCpu);
      check_matrix(kOp, "c", c[t], m, args.q, y.dtype, kCpu);
      args.term[args.terms++] = {v[t].as<T>(), v[t].stride[0], c[t].as<T>(), c[t].stride[0], m};
    }
    args.y = y.as<T>(), args.ldy = y.stride[0];
    args.beta = static_cast<T>(beta), args.threads = threads;
    SSLSPEC_CALL(basis_combine<T>, args);
  });
}

void basis_random(TensorView y, int64_t first, uint64_t seed, int threads) {
  constexpr const char* kOp = "basis_random";
  dispatch_float(kOp, y.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    SSLSPEC_CHECK(y.ndim == 2, kOp, ": y must be (n, q), got ", shape_text(y));
    check_matrix(kOp, "y", y, y.shape[0], y.shape[1], y.dtype, kCpu);
    SSLSPEC_CHECK(y.shape[0] <= 1 || y.shape[1] == 0 || y.stride[0] == y.shape[1], kOp,
                  ": y must be contiguous, got row stride ", y.stride[0]);
    SSLSPEC_CHECK(first >= 0, kOp, ": first must be >= 0, got ", first);
    SSLSPEC_CALL(basis_random<T>, y.as<T>(), y.shape[0] * y.shape[1], first * y.shape[1], seed, threads);
  });
}

}  // namespace sslspec

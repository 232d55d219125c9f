#include "sparse/edges.h"

#include "common/dispatch.h"
#include "sparse/cpu/edges.h"
#include "sparse/checks.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "edges";

template <typename T>
cpu::EdgesArgs<T> arguments(const CsrView& a, const TensorView& x, const TensorView& y, const TensorView& out,
                            bool each, int threads) {
  cpu::EdgesArgs<T> p{};
  p.a = sparse_arguments<T>(kOp, a);
  check_ends(kOp, p.a.n, x, y, kCpu);
  check_vector(kOp, "out", out, each ? p.a.nnz : p.a.n, x.dtype, kCpu);
  p.x = x.as<T>(), p.ldx = x.stride[0], p.d = x.shape[1];
  p.y = y.as<T>(), p.ldy = y.stride[0];
  p.out = out.as<T>(), p.threads = threads;
  return p;
}

}  // namespace

void edges(const CsrView& a, TensorView x, TensorView y, TensorView out, bool squared, int threads) {
  dispatch_float(kOp, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    auto p = arguments<T>(a, x, y, out, false, threads);
    p.squared = squared;
    if (p.d == 0)
      for (int64_t i = 0; i < p.a.n; ++i) p.out[i] = 0;
    else
      SSLSPEC_CALL(edges<T>, p);
  });
}

void edge_values(const CsrView& a, TensorView x, TensorView y, TensorView out, int threads) {
  dispatch_float(kOp, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto p = arguments<T>(a, x, y, out, true, threads);
    SSLSPEC_CALL(edge_values<T>, p);
  });
}

}  // namespace sslspec

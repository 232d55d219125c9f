#include "edges.h"

#include "common/dispatch.h"
#include "cpu/edges.h"
#include "sparse_view.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "edges";

}  // namespace

void edges(TensorView indptr, TensorView indices, TensorView values, TensorView x, TensorView y, TensorView out,
           bool squared, int threads) {
  dispatch_float(kOp, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cpu::EdgesArgs<T> p{};
    p.a = sparse_arguments<T>(kOp, indptr, indices, values);
    SSLSPEC_CHECK(x.ndim == 2 && y.ndim == 2, kOp, ": x and y must be matrices, got ", shape_text(x), " and ",
                  shape_text(y));
    const int64_t n = p.a.n, d = x.shape[1];
    check_matrix(kOp, "x", x, n, d, x.dtype, kCpu);
    check_matrix(kOp, "y", y, y.shape[0], d, x.dtype, kCpu);
    check_vector(kOp, "out", out, n, x.dtype, kCpu);
    p.x = x.as<T>(), p.ldx = x.stride[0], p.d = d;
    p.y = y.as<T>(), p.ldy = y.stride[0];
    p.out = out.as<T>(), p.squared = squared, p.threads = threads;
    if (d == 0)
      for (int64_t i = 0; i < n; ++i) p.out[i] = 0;
    else
      SSLSPEC_CALL(edges<T>, p);
  });
}

}  // namespace sslspec

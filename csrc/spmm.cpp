#include "spmm.h"

#include "common/dispatch.h"
#include "cpu/spmm.h"
#include "sparse_view.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "spmm";

}  // namespace

void spmm(TensorView indptr, TensorView indices, TensorView values, TensorView x, TensorView own, TensorView row_scale,
          TensorView col_scale, TensorView w, TensorView diagonal, TensorView y, bool add_scales, double alpha,
          double beta, double gamma, double delta, int threads) {
  dispatch_float(kOp, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cpu::SpmmArgs<T> p{};
    p.a = sparse_arguments<T>(kOp, indptr, indices, values);
    SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be (m, b), got ", shape_text(x));
    const int64_t n = p.a.n, m = x.shape[0], b = x.shape[1];
    check_matrix(kOp, "x", x, m, b, x.dtype, kCpu);
    check_matrix(kOp, "y", y, n, b, x.dtype, kCpu);
    if (own.present()) check_matrix(kOp, "own", own, n, b, x.dtype, kCpu);
    if (w.present()) check_matrix(kOp, "w", w, n, b, x.dtype, kCpu);
    if (diagonal.present()) check_vector(kOp, "diagonal", diagonal, n, x.dtype, kCpu);
    if (row_scale.present()) check_vector(kOp, "row_scale", row_scale, n, x.dtype, kCpu);
    if (col_scale.present()) check_vector(kOp, "col_scale", col_scale, m, x.dtype, kCpu);
    SSLSPEC_CHECK(!add_scales || (row_scale.present() && col_scale.present()), kOp,
                  ": add_scales needs row_scale and col_scale");
    p.a.col_scale = col_scale.as<T>();
    if (add_scales)
      p.a.combine = cpu::Combine::sum, p.a.row_scale = row_scale.as<T>();
    else
      p.row_scale = row_scale.as<T>();
    p.x = x.as<T>(), p.ldx = x.stride[0], p.b = b;
    p.own = own.as<T>(), p.ldo = own.stride[0];
    p.w = w.as<T>(), p.ldw = w.stride[0], p.diagonal = diagonal.as<T>();
    p.y = y.as<T>(), p.ldy = y.stride[0];
    p.alpha = static_cast<T>(alpha), p.beta = static_cast<T>(beta), p.gamma = static_cast<T>(gamma);
    p.delta = static_cast<T>(delta);
    p.threads = threads;
    SSLSPEC_CALL(spmm<T>, p);
  });
}

}  // namespace sslspec

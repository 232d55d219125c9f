#include "sparse/spmm.h"

#include "common/dispatch.h"
#include "sparse/cpu/spmm.h"
#include "sparse/checks.h"
#include "sparse/csr.h"

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
    check_product(kOp, p.a.n, x, own, row_scale, col_scale, w, diagonal, y, add_scales, kCpu);
    p.a.col_scale = col_scale.as<T>();
    if (add_scales)
      p.a.combine = cpu::Combine::sum, p.a.row_scale = row_scale.as<T>();
    else
      p.row_scale = row_scale.as<T>();
    p.x = x.as<T>(), p.ldx = x.stride[0], p.b = x.shape[1];
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

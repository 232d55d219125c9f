#include "sparse/spmm.h"

#include "common/dispatch.h"
#include "sparse/cpu/spmm.h"
#include "sparse/checks.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "spmm";

}  // namespace

void spmm(const CsrView& a, TensorView x, TensorView own, const Scales& scales, const Combination& combination,
          TensorView y, int threads) {
  dispatch_float(kOp, x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto& [alpha, beta, gamma, delta, w, diagonal] = combination;
    cpu::SpmmArgs<T> p{};
    p.a = sparse_arguments<T>(kOp, a);
    check_product(kOp, p.a.n, x, own, scales, combination, y, kCpu);
    p.a.col_scale = scales.col.as<T>();
    if (scales.add)
      p.a.combine = cpu::Combine::sum, p.a.row_scale = scales.row.as<T>();
    else
      p.row_scale = scales.row.as<T>();
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

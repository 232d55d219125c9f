#include "rows/unit_rows.h"

#include "common/dispatch.h"
#include "common/workspace.h"
#include "rows/cpu/unit_rows.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "unit_rows";

template <typename T>
cpu::UnitRowsArgs<T> arguments(const std::vector<TensorView>& x, const std::vector<TensorView>& norm, double longest,
                               int threads) {
  cpu::UnitRowsArgs<T> p{};
  p.operands = static_cast<int>(x.size()), p.n = x[0].shape[0], p.d = x[0].shape[1];
  p.longest = longest, p.threads = threads;
  for (size_t o = 0; o < x.size(); ++o) p.x[o] = x[o].as<T>(), p.norm[o] = norm[o].as<T>();
  return p;
}

}  // namespace

void unit_rows_forward(const std::vector<TensorView>& z, double longest, const std::vector<TensorView>& x,
                       const std::vector<TensorView>& norm, TensorView dot, int threads) {
  check_unit_rows(z, x, norm, dot);
  SSLSPEC_CHECK(dot.present() == (z.size() == 2), kOp, ": dot goes with two operands, got ", z.size());
  dispatch_float(kOp, z[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(x, norm, longest, threads);
    for (size_t o = 0; o < z.size(); ++o) p.z[o] = z[o].as<T>(), p.ldz[o] = z[o].stride[0], p.x[o] = lent<T>(x[o]);
    p.dot = dot.as<T>();
    SSLSPEC_CALL(unit_rows_forward<T>, p);
  });
}

void unit_rows_backward(const std::vector<TensorView>& x, const std::vector<TensorView>& norm, double longest,
                        const std::vector<TensorView>& grad, TensorView grad_dot, const std::vector<TensorView>& grad_z,
                        int threads) {
  check_unit_rows(grad, x, norm, grad_dot);
  check_unit_rows(grad, grad_z, norm, grad_dot);
  dispatch_float(kOp, x[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    auto p = arguments<T>(x, norm, longest, threads);
    for (size_t o = 0; o < x.size(); ++o) {
      p.grad[o] = grad[o].as<T>(), p.ldg[o] = grad[o].stride[0];
      p.grad_z[o] = lent<T>(grad_z[o]);
    }
    p.grad_dot = grad_dot.as<T>();
    SSLSPEC_CALL(unit_rows_backward<T>, p);
  });
}

}  // namespace sslspec

#include "fused/spectral_contrastive.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "fused/cpu/spectral_contrastive.h"
#include "simd/team.h"

namespace sslspec {
namespace {
constexpr const char* kOp = "spectral_contrastive";
}

int64_t spectral_contrastive_workspace_size(int64_t n, int64_t d, int dtype) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(spectral_contrastive_workspace<T>, n, d);
  });
  return size;
}

namespace {

// z1, z2, value, gradients and workspace as the kernels take them; `kind` is what is computed in.
template <typename T, typename Value>
cpu::SpectralContrastiveArgs<T, Value> checked(const TensorView& z1, const TensorView& z2,
                                               const SpectralWeights& weights, const TensorView& value,
                                               const TensorPair& grads, const Run& run, DType kind) {
  SSLSPEC_CHECK(z1.ndim == 2, kOp, ": z1 must be (n, d), got ", shape_text(z1));
  SSLSPEC_CHECK(weights.longest > 0, kOp, ": longest must be > 0, got ", weights.longest);
  cpu::SpectralContrastiveArgs<T, Value> p{};
  p.n = z1.shape[0], p.d = z1.shape[1];
  check_matrix(kOp, "z1", z1, p.n, p.d, z1.dtype, kCpu);
  check_matrix(kOp, "z2", z2, p.n, p.d, z1.dtype, kCpu);
  check_vector(kOp, "value", value, 2, DType::f64, kCpu);
  check_vector(kOp, "workspace", run.workspace, spectral_contrastive_workspace_size(p.n, p.d, int(kind)), kind, kCpu);
  for (int view = 0; view < 2; ++view) {
    const TensorView& grad = view == 0 ? grads.first : grads.second;
    if (!grad.present()) continue;
    check_matrix(kOp, view == 0 ? "grad_1" : "grad_2", grad, p.n, p.d, kind, kCpu);
    SSLSPEC_CHECK(p.n <= 1 || p.d == 0 || grad.stride[0] == p.d, kOp, ": gradients must be contiguous");
    p.grad[view] = lent<T>(grad);
  }
  p.z[0] = z1.as<Value>(), p.ldz[0] = z1.stride[0];
  p.z[1] = z2.as<Value>(), p.ldz[1] = z2.stride[0];
  p.longest = weights.longest, p.attraction = weights.attraction, p.repulsion = weights.repulsion;
  p.value = value.as<double>(), p.workspace = lent<T>(run.workspace), p.threads = run.threads;
  return p;
}

}  // namespace

void spectral_contrastive(TensorView z1, TensorView z2, const SpectralWeights& weights, bool half, TensorView value,
                          const TensorPair& grads, const Run& run) {
  const bool narrow = half && z1.dtype == DType::bf16;
  SSLSPEC_CHECK(!half || ((narrow || z1.dtype == DType::f32) && cpu::bf16_products()), kOp,
                ": this processor does not multiply rows of ", z1.dtype, " in bfloat16");
  if (narrow) {
    const auto p = checked<float, cpu::Bfloat16>(z1, z2, weights, value, grads, run, DType::f32);
    return cpu::in_team(run.threads, [&] { SSLSPEC_CALL_BF16(spectral_contrastive_bf16, p); });
  }
  dispatch_float(kOp, z1.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto p = checked<T, T>(z1, z2, weights, value, grads, run, z1.dtype);
    cpu::in_team(run.threads, [&] {
      if constexpr (std::is_same_v<T, float>)
        if (half) return SSLSPEC_CALL_BF16(spectral_contrastive_bf16, p);
      SSLSPEC_CALL(spectral_contrastive<T>, p);
    });
  });
}

}  // namespace sslspec

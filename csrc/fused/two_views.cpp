#include "fused/two_views.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "fused/cpu/two_views.h"
#include "pairwise/cpu/bf16.h"
#include "pairwise/pairwise.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "two_views";

void check_views(const char* name, const TensorView& t, const TensorView& u, int ndim) {  // [2, n, d] or [2, n]
  check_dense(kOp, name, t, ndim, u.shape, u.dtype, kCpu);
  int64_t size = 1;
  for (int i = ndim - 1; i >= 0; size *= t.shape[i--])
    SSLSPEC_CHECK(t.shape[i] <= 1 || t.stride[i] == size, kOp, ": ", name, " must be contiguous");
}

// The workspace, laid out: what is kept per row, then that of `pairwise`.
template <typename T>
struct Workspace {
  static int64_t rounded(int64_t count) { return (count + 63) / 64 * 64; }
  int64_t vector, half;  // values of a vector over the rows, of all rows in bfloat16

  Workspace(int64_t n, int64_t d, bool half) : vector(rounded(2 * n)), half(half ? rounded(n * d) : 0) {}
  int64_t before_pairwise() const { return 3 * vector + half; }
};

template <typename T>
struct Views {
  cpu::TwoViewsArgs<T> rows{};
  cpu::PairwiseArgs<T> pairs{};  // the rows with themselves
  bool half;

  // Checks what both passes share.
  Views(const TensorView& scale, const ViewRows& left, const Run& run, bool backward) : half(left.half) {
    const TensorView &u = left.u, &norm = left.norm, &negatives = left.negatives, &kept = left.kept;
    const TensorView& workspace = run.workspace;
    const int threads = run.threads;
    SSLSPEC_CHECK(u.ndim == 3 && u.shape[0] == 2, kOp, ": u must be (2, n, d), got ", shape_text(u));
    check_views("u", u, u, 3);
    check_views("norm", norm, u, 2);
    check_views("negatives", negatives, u, 2);
    check_dense(kOp, "scale", scale, 0, nullptr, u.dtype, kCpu);
    if (kept.present()) check_vector(kOp, "kept", kept, 1, DType::i64, kCpu);
    SSLSPEC_CHECK(!half || (u.dtype == DType::f32 && cpu::bf16_products()), kOp,
                  ": this processor does not multiply rows of ", u.dtype, " in bfloat16");
    const int64_t n = u.shape[1], d = u.shape[2];
    const int64_t size = two_views_workspace_size(n, d, int(u.dtype), half, backward);
    check_vector(kOp, "workspace", workspace, size, u.dtype, kCpu);
    const Workspace<T> w(n, d, half);
    T* const memory = workspace.as<T>();
    int32_t* const ids = reinterpret_cast<int32_t*>(memory);  // both views of a sample share its number
    for (int64_t i = 0; i < 2 * n; ++i) ids[i] = static_cast<int32_t>(i % n);

    rows.n = n, rows.d = d, rows.scale = scale.as<T>(), rows.u = u.as<T>(), rows.norm = norm.as<T>();
    rows.negatives = negatives.as<T>(), rows.weight = memory + w.vector, rows.along = memory + 2 * w.vector;
    rows.half = half ? reinterpret_cast<uint16_t*>(memory + 3 * w.vector) : nullptr, rows.threads = threads;

    pairs.a = pairs.b = rows.u, pairs.lda = pairs.ldb = pairs.d = d, pairs.n = pairs.m = 2 * n;
    pairs.scale = rows.scale, pairs.ids_a = pairs.ids_b = ids, pairs.skip_self = pairs.symmetric = true;
    pairs.row_lse = rows.negatives, pairs.grad_row = rows.weight;
    pairs.workspace = memory + w.before_pairwise(), pairs.kept = kept.as<int64_t>(), pairs.threads = threads;
  }

  void multiply(bool backward) {
    pairs.grad_a = rows.grad_z;
#ifdef SSLSPEC_X86_BF16
    if constexpr (std::is_same_v<T, float>)
      if (half) {
        const cpu::PairwiseBf16Args q{pairs, rows.half, rows.half};
        return backward ? cpu::avx512bf16::pairwise_bf16_backward(q) : cpu::avx512bf16::pairwise_bf16_forward(q);
      }
#endif
    backward ? SSLSPEC_CALL(pairwise_backward<T>, pairs) : SSLSPEC_CALL(pairwise_forward<T>, pairs);
  }
};

}  // namespace

int64_t two_views_workspace_size(int64_t n, int64_t d, int dtype, bool half, bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    const int64_t pairs =
        pairwise_workspace_size(2 * n, 2 * n, d, int(half ? DType::bf16 : DType(dtype)), true, backward);
    size = Workspace<T>(n, d, half).before_pairwise() + pairs;
  });
  return size;
}

void two_views_forward(const TensorPair& z, TensorView scale, const ViewRows& left, TensorView rows, const Run& run) {
  const TensorView& u = left.u;
  dispatch_float(kOp, u.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    Views<T> views(scale, left, run, false);
    auto& p = views.rows;
    check_matrix(kOp, "z1", z.first, p.n, p.d, u.dtype, kCpu);
    check_matrix(kOp, "z2", z.second, p.n, p.d, u.dtype, kCpu);
    check_views("rows", rows, u, 2);
    p.z[0] = z.first.as<T>(), p.ldz[0] = z.first.stride[0];
    p.z[1] = z.second.as<T>(), p.ldz[1] = z.second.stride[0];
    p.rows = rows.as<T>();
    cpu::in_team(p.threads, [&] {
      SSLSPEC_CALL(views_unit_rows<T>, p);
      views.multiply(false);
      SSLSPEC_CALL(views_losses<T>, p);
    });
  });
}

void two_views_backward(TensorView scale, const ViewRows& left, TensorView grad, TensorView grad_z,
                        TensorView grad_scale, const Run& run) {
  const TensorView& u = left.u;
  dispatch_float(kOp, u.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    Views<T> views(scale, left, run, true);
    auto& p = views.rows;
    check_views("grad", grad, u, 2);
    check_views("grad_z", grad_z, u, 3);
    check_dense(kOp, "grad_scale", grad_scale, 0, nullptr, u.dtype, kCpu);
    p.grad = grad.as<T>(), p.grad_z = grad_z.as<T>(), p.grad_scale = grad_scale.as<T>();
    cpu::in_team(p.threads, [&] {
      SSLSPEC_CALL(views_weights<T>, p);
      views.multiply(true);
      SSLSPEC_CALL(views_gradient<T>, p);
    });
  });
}

}  // namespace sslspec

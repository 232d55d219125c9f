#include "fused/guided.h"

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "fused/cpu/guided.h"
#include "simd/team.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "guided";
constexpr const char* kRows[] = {"queries", "keys", "negatives"};

}  // namespace

int64_t guided_workspace_size(const std::array<int64_t, 4>& sizes, int dtype, bool backward) {
  int64_t size = 0;
  dispatch_float(kOp, static_cast<DType>(dtype), [&](auto t) {
    using T = typename decltype(t)::type;
    size = SSLSPEC_CALL(guided_workspace<T>, cpu::GuidedSizes{sizes[0], sizes[1], sizes[2], sizes[3]}, backward);
  });
  return size;
}

void guided(const std::vector<TensorView>& rows, const std::vector<TensorView>& guides, const GuidedLoss& loss,
            TensorView row_loss, TensorView grad_positive, const std::vector<TensorView>& grads, const Run& run) {
  const size_t sides = rows.size();
  SSLSPEC_CHECK(sides == 2 || sides == 3, kOp, ": needs queries, keys and perhaps negatives, got ", sides);
  SSLSPEC_CHECK(guides.size() == sides && grads.size() == sides, kOp, ": rows, guides and grads go together, got ",
                sides, ", ", guides.size(), " and ", grads.size());
  SSLSPEC_CHECK(rows[0].ndim == 2 && guides[0].ndim == 2, kOp, ": rows and guides must have 2 dimensions, got ",
                rows[0].ndim, " and ", guides[0].ndim);
  const DType kind = rows[0].dtype;
  const int64_t n = rows[0].shape[0], d = rows[0].shape[1], e = guides[0].shape[1];
  const int64_t l = sides == 3 ? rows[2].shape[0] : 0;
  bool backward = false;
  for (size_t s = 0; s < sides; ++s) {
    const int64_t count = s < 2 ? n : l;
    check_matrix(kOp, kRows[s], rows[s], count, d, kind, kCpu);
    check_matrix(kOp, "guides", guides[s], count, e, kind, kCpu);
    if (!grads[s].present()) continue;
    backward = true;
    check_matrix(kOp, "grads", grads[s], count, d, kind, kCpu);
    SSLSPEC_CHECK(count <= 1 || grads[s].stride[0] == d, kOp, ": grads must be contiguous");
  }
  check_dense(kOp, "scale", loss.scale, 0, nullptr, kind, kCpu);
  check_vector(kOp, "bound", loss.bound, n, kind, kCpu);
  check_vector(kOp, "positive", loss.positive, n, kind, kCpu);
  check_vector(kOp, "weight", loss.weight, n, kind, kCpu);
  check_vector(kOp, "row_loss", row_loss, n, kind, kCpu);
  check_vector(kOp, "grad_positive", grad_positive, n, kind, kCpu);
  const int64_t size = guided_workspace_size({n, l, d, e}, int(kind), backward);
  check_vector(kOp, "workspace", run.workspace, size, kind, kCpu);
  dispatch_float(kOp, kind, [&](auto t) {
    using T = typename decltype(t)::type;
    cpu::GuidedArgs<T> p{};
    p.size = {n, l, d, e}, p.directions = loss.directions, p.backward = backward;
    for (size_t s = 0; s < sides; ++s)
      p.sides[s] = {rows[s].as<T>(), rows[s].stride[0], guides[s].as<T>(), guides[s].stride[0], lent<T>(grads[s])};
    p.scale = loss.scale.as<T>(), p.bound = loss.bound.as<T>();
    p.positive = loss.positive.as<T>(), p.weight = loss.weight.as<T>();
    p.rows = row_loss.as<T>(), p.grad_positive = grad_positive.as<T>();
    p.workspace = lent<T>(run.workspace), p.threads = run.threads;
    cpu::in_team(p.threads, [&] { SSLSPEC_CALL(guided<T>, p); });
  });
}

}  // namespace sslspec

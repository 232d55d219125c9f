#include "fused/two_views.h"

#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/workspace.h"
#include "fused/cpu/two_views.h"
#include "pairwise/cpu/bf16.h"
#include "pairwise/cpu/value_and_grad.h"
#include "pairwise/pairwise.h"
#include "simd/parallel.h"
#include "simd/scratch.h"

namespace sslspec {
namespace {

constexpr const char* kOp = "two_views";
constexpr int kWorkspace = 4;  // slot of scratch, which no kernel uses
using cpu::ViewForm;

// Rows that are read in bfloat16.
bool is_narrow(DType rows, const ViewLoss& loss) { return loss.half && rows == DType::bf16; }

// `rows` in float or double needs each row's own sum alone: one visit of the logits (pairwise/cpu/value_and_grad.h).
bool by_panels(const ViewLoss& loss) { return loss.gradient && !loss.half && ViewForm(loss.form) == ViewForm::rows; }

// The workspace, laid out; base == nullptr only counts.
template <typename T>
struct Workspace {
  int32_t* ids = nullptr;  // stacked: both views of a sample share its number
  T *u = nullptr, *norm = nullptr, *factor_of_row = nullptr, *negatives = nullptr, *losses = nullptr, *own = nullptr,
    *along = nullptr, *of_bias = nullptr;
  uint16_t* half = nullptr;
  T *products = nullptr, *panel = nullptr, *pairwise = nullptr;
  int64_t size = 0;

  Workspace(T* base, int64_t n, int64_t d, const ViewLoss& loss, bool narrow) {
    const auto take = [&](int64_t count) {
      T* p = base == nullptr ? nullptr : base + size;
      size += (count + 63) / 64 * 64;
      return p;
    };
    const bool stacked = ViewForm(loss.form) == ViewForm::stacked;
    const int64_t all = stacked ? 2 * n : n;  // rows of either operand
    if (stacked) ids = reinterpret_cast<int32_t*>(take(2 * n));
    if (loss.unit) norm = take(2 * n);
    if (loss.unit && narrow) factor_of_row = take(2 * n);
    if (loss.unit && !narrow) u = take(2 * n * d);
    if (loss.half && (loss.unit || !narrow)) half = reinterpret_cast<uint16_t*>(take(n * d));
    negatives = take(2 * n), losses = take(2 * n);
    if (loss.gradient) own = take(2 * n), along = take(2 * n), of_bias = take(n);
    if (loss.gradient && stacked) products = take(2 * n * d);
    const int kind = static_cast<int>(sizeof(T) == 8 ? DType::f64 : DType::f32);
    if (by_panels(loss)) panel = take(pairwise_one_positive_panel_size(n, n, kind));
    pairwise = take(pairwise_workspace_size(all, all, d, kind, stacked, loss.gradient));
  }
};

// Value: what the rows hold in memory, bfloat16 only where they are multiplied as such.
template <typename T, typename Value>
struct Views {
  static constexpr bool kNarrow = cpu::TwoViewsArgs<T, Value>::kNarrow;
  const ViewLoss& loss;
  cpu::TwoViewsArgs<T, Value> rows{};
  cpu::PairwiseArgs<T> pairs{};
  Workspace<T> w;

  Views(const PairedRows& in, const ViewLoss& loss, const ViewResults& out, const Run& run)
      : loss(loss), w(memory(in, loss, run), in.z.first.shape[0], in.z.first.shape[1], loss, kNarrow) {
    const int64_t n = in.z.first.shape[0], d = in.z.first.shape[1];
    const bool stacked = ViewForm(loss.form) == ViewForm::stacked;
    rows.n = n, rows.d = d, rows.form = ViewForm(loss.form), rows.threads = run.threads;
    rows.z[0] = in.z.first.as<Value>(), rows.ldz[0] = in.z.first.stride[0];
    rows.z[1] = in.z.second.as<Value>(), rows.ldz[1] = in.z.second.stride[0];
    rows.scale = in.scale.present() ? *in.scale.as<T>() : static_cast<T>(in.number);
    rows.bias = in.bias.present() ? *in.bias.as<T>() : static_cast<T>(in.offset);
    rows.weight = in.weight.as<T>(), rows.factor = loss.factor, rows.largest = largest_weight();
    rows.unit = loss.unit, rows.u = w.u, rows.norm = w.norm, rows.factor_of_row = w.factor_of_row, rows.half = w.half,
    rows.negatives = w.negatives, rows.losses = w.losses;
    rows.own = w.own, rows.along = w.along, rows.of_bias = w.of_bias;
    rows.loss = out.loss.as<T>(), rows.samples = out.samples.as<T>(), rows.grad_scale = out.grad_scale.as<T>();
    rows.grad_bias = out.grad_bias.as<T>();
    rows.grad_z[0] = lent<T>(out.grad_z.first), rows.grad_z[1] = lent<T>(out.grad_z.second);

    for (int64_t i = 0; stacked && i < 2 * n; ++i) w.ids[i] = static_cast<int32_t>(i % n);
    pairs.n = pairs.m = stacked ? 2 * n : n, pairs.d = d;
    if constexpr (!kNarrow) {
      const auto row = [&](int view) { return loss.unit ? w.u + view * n * d : rows.z[view]; };
      pairs.a = row(0), pairs.lda = loss.unit ? d : rows.ldz[0];
      pairs.b = row(stacked ? 0 : 1), pairs.ldb = loss.unit ? d : rows.ldz[stacked ? 0 : 1];
    }
    pairs.ids_a = pairs.ids_b = w.ids, pairs.skip_self = true;
    pairs.symmetric = stacked, pairs.columns = rows.form == ViewForm::both, pairs.scale = &rows.scale,
    pairs.bias = &rows.bias;
    pairs.row_lse = w.negatives, pairs.col_lse = w.negatives + n;
    pairs.grad_row = w.own, pairs.grad_col = w.own + n;
    pairs.grad_a = stacked ? w.products : rows.grad_z[0], pairs.grad_b = stacked ? nullptr : rows.grad_z[1];
    pairs.workspace = w.pairwise, pairs.threads = run.threads;
    rows.v[0] = pairs.grad_a, rows.v[1] = stacked ? w.products + n * d : pairs.grad_b;
    // the panels of a right-hand gradient in T hold the scale (pairwise/cpu/panels.h)
    rows.applied[0] = 1, rows.applied[1] = stacked || loss.half ? T(1) : rows.scale;
  }
  Views(const Views&) = delete;  // pairs points at rows.scale and rows.bias

  static T* memory(const PairedRows& in, const ViewLoss& loss, const Run& run) {
    if (run.workspace.present()) return lent<T>(run.workspace);
    const int64_t size = Workspace<T>(nullptr, in.z.first.shape[0], in.z.first.shape[1], loss, kNarrow).size;
    return static_cast<T*>(cpu::scratch(kWorkspace, sizeof(T) * static_cast<size_t>(size)));
  }

  double largest_weight() const {
    double most = 0;
    for (int64_t i = 0; rows.weight != nullptr && i < rows.n; ++i)
      if (double(rows.weight[i]) > most) most = double(rows.weight[i]);
    return most > 0 && most < __builtin_inf() ? most : 1;
  }

  cpu::PairwiseBf16Args in_half() const {
    cpu::PairwiseBf16Args q{pairs, w.half, w.half + (pairs.symmetric ? 0 : rows.n * rows.d)};
    q.lda = q.ldb = rows.d;
    if (kNarrow && !loss.unit) {  // as they came
      q.half_a = reinterpret_cast<const uint16_t*>(rows.z[0]), q.lda = rows.ldz[0];
      q.half_b = reinterpret_cast<const uint16_t*>(rows.z[1]), q.ldb = rows.ldz[1];
    }
    return q;
  }

  // Loss and weights of the rows with the products of their gradient.
  void one_visit() {
    cpu::for_row_ranges(2 * rows.n, rows.threads,
                        [&](int64_t first, int64_t end) { SSLSPEC_CALL(views_rows, rows, first, end); });
    SSLSPEC_CALL(views_positives, rows);
    cpu::OnePositiveArgs<T> q{pairs, w.along, w.negatives, w.panel};
    q.pairwise.row_lse = w.losses, q.pairwise.grad_row = w.own;
    SSLSPEC_CALL(pairwise_one_positive<T>, q);
    for (int64_t i = 0; i < rows.n; ++i) w.own[i] = -w.negatives[i];
  }

  // What `pairwise` makes of the pairs, and the losses of the rows, between statistics and gradient or after both.
  void multiply() {
    const auto prepare = [&](int64_t first, int64_t end) { SSLSPEC_CALL(views_rows, rows, first, end); };
    const auto weigh = [&](int64_t first, int64_t end) { SSLSPEC_CALL(views_losses, rows, first, end); };
    const auto losses = [&] { cpu::for_row_ranges(rows.anchors(), rows.threads, weigh); };
    if (!by_panels(loss)) pairs.prepare = cpu::RowsCallback::to(prepare);
    const bool softmax = rows.form != ViewForm::sigmoid, gradient = loss.gradient;
    if (!softmax && gradient) pairs.row_lse = w.of_bias, pairs.row_sum = w.negatives;
    if constexpr (std::is_same_v<T, float>)
      if (loss.half) {
        const cpu::PairwiseBf16Args q = in_half();
        if (softmax && gradient)
          return SSLSPEC_CALL_BF16(pairwise_bf16_value_and_grad, q, cpu::RowsCallback::to(weigh));
        if (softmax)
          SSLSPEC_CALL_BF16(pairwise_bf16_forward, q);
        else if (gradient)
          SSLSPEC_CALL_BF16(pairwise_bf16_sigmoid_backward, q);
        else
          SSLSPEC_CALL_BF16(pairwise_bf16_sigmoid_forward, q);
        return losses();
      }
    if constexpr (!kNarrow) {
      if (by_panels(loss)) return one_visit();
      if (softmax && gradient) return SSLSPEC_CALL(pairwise_value_and_grad<T>, pairs, cpu::RowsCallback::to(weigh));
      if (softmax)
        SSLSPEC_CALL(pairwise_forward<T>, pairs);
      else if (gradient)
        SSLSPEC_CALL(pairwise_sigmoid_backward<T>, pairs);
      else
        SSLSPEC_CALL(pairwise_sigmoid_forward<T>, pairs);
      losses();
    }
  }

  void run() {
    multiply();
    SSLSPEC_CALL(views_total, rows);
    if (loss.gradient) SSLSPEC_CALL(views_gradient, rows);
  }
};

void check(const PairedRows& in, const ViewLoss& loss, const ViewResults& out, const Run& run) {
  const auto& [z1, z2] = in.z;
  SSLSPEC_CHECK(z1.ndim == 2, kOp, ": z1 must be (n, d), got ", shape_text(z1));
  const int64_t n = z1.shape[0], d = z1.shape[1];
  const DType kind = is_narrow(z1.dtype, loss) ? DType::f32 : z1.dtype;
  check_matrix(kOp, "z1", z1, n, d, z1.dtype, kCpu);
  check_matrix(kOp, "z2", z2, n, d, z1.dtype, kCpu);
  if (in.scale.present()) check_dense(kOp, "scale", in.scale, 0, nullptr, kind, kCpu);
  if (in.weight.present()) check_vector(kOp, "weight", in.weight, n, kind, kCpu);
  if (in.bias.present()) check_dense(kOp, "bias", in.bias, 0, nullptr, kind, kCpu);
  SSLSPEC_CHECK(0 <= loss.form && loss.form <= 3, kOp, ": form must be 0, 1, 2 or 3, got ", loss.form);
  SSLSPEC_CHECK(!loss.half || (kind == DType::f32 && cpu::bf16_products()), kOp,
                ": this processor does not multiply rows of ", z1.dtype, " in bfloat16");
  check_dense(kOp, "loss", out.loss, 0, nullptr, kind, kCpu);
  if (out.samples.present()) check_vector(kOp, "samples", out.samples, n, kind, kCpu);
  if (run.workspace.present())
    check_vector(kOp, "workspace", run.workspace, two_views_workspace_size(n, d, int(z1.dtype), loss), kind, kCpu);
  if (!loss.gradient) return;
  if (out.grad_scale.present()) check_dense(kOp, "grad_scale", out.grad_scale, 0, nullptr, kind, kCpu);
  if (out.grad_bias.present()) check_dense(kOp, "grad_bias", out.grad_bias, 0, nullptr, kind, kCpu);
  const bool stacked = ViewForm(loss.form) == ViewForm::stacked;
  for (const bool second : {false, true}) {
    const TensorView& g = second ? out.grad_z.second : out.grad_z.first;
    if (second && !stacked && !g.present()) continue;
    const char* name = second ? "grad_z2" : "grad_z1";
    check_matrix(kOp, name, g, n, d, kind, kCpu);
    SSLSPEC_CHECK(n <= 1 || g.stride[0] == d, kOp, ": ", name, " must be contiguous");
  }
}

// f(Type<T>, Type<Value>) for rows of that dtype
template <typename F>
void with_types(DType rows, const ViewLoss& loss, const F& f) {
  if (is_narrow(rows, loss)) return f(Type<float>{}, Type<cpu::Bfloat16>{});
  dispatch_float(kOp, rows, [&](auto t) { f(t, t); });
}

}  // namespace

int64_t two_views_workspace_size(int64_t n, int64_t d, int dtype, const ViewLoss& loss) {
  int64_t size = 0;
  const DType rows = static_cast<DType>(dtype);
  with_types(rows, loss, [&](auto t, auto) {
    using T = typename decltype(t)::type;
    size = Workspace<T>(nullptr, n, d, loss, is_narrow(rows, loss)).size;
  });
  return size;
}

void two_views(const PairedRows& in, const ViewLoss& loss, const ViewResults& out, const Run& run) {
  check(in, loss, out, run);
  with_types(in.z.first.dtype, loss, [&](auto t, auto value) {
    using T = typename decltype(t)::type;
    Views<T, typename decltype(value)::type> views(in, loss, out, run);
    cpu::in_team(run.threads, [&] { views.run(); });
  });
}

}  // namespace sslspec

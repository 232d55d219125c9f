// Entry points of two_views.h: checks, the layout of the workspace, and the order of the launches.
#include "fused/cuda/two_views.h"

#include "fused/cuda/views.cuh"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = kViewsOp;

// The workspace of a pass, laid out; base == nullptr only counts. T: the dtype of the statistics.
template <typename T>
struct ViewBuffers {
  T* factors;        // backward of single losses: w, at the beginning
  double* partials;  // forward: sums of losses
  unsigned* counter;
  Partial *x_parts, *y_parts;  // forward, float32: of the first operand (or the stacked rows), of the second
  Partial* tile_sums;
  Weight* weights[2];  // backward from here on, of single losses: of both operands
  T *scale_parts, *product;
  float* parts[2];  // of the products of both operands, or null
  int64_t size = 0;

  ViewBuffers(T* base, int64_t n, int64_t width, DType dtype, ViewForm form, bool backward, bool own_product) {
    auto take = [&](int64_t bytes) {
      T* p = base == nullptr ? nullptr : base + size;
      size += (bytes + 255) / 256 * 256 / static_cast<int64_t>(sizeof(T));
      return p;
    };
    constexpr bool kFloat = std::is_same_v<T, float>;
    const int64_t real = sizeof(T), count = form == ViewForm::stacked ? 2 * n : n;  // rows of the problem
    const bool columns = form == ViewForm::both;
    factors = nullptr, partials = nullptr, counter = nullptr;
    if (backward) {
      factors = take(2 * n * real);
    } else {
      partials = reinterpret_cast<double*>(take(ceil_div(2 * n, kViewThreads) * int64_t{sizeof(double)}));
      counter = reinterpret_cast<unsigned*>(take(sizeof(unsigned)));
    }
    x_parts = y_parts = nullptr, tile_sums = nullptr, parts[0] = parts[1] = nullptr, weights[0] = weights[1] = nullptr,
    scale_parts = product = nullptr;
    if (!backward && kFloat) {
      const PairwiseGrid grid(count, count);
      x_parts = reinterpret_cast<Partial*>(take(grid.y_supers * count * int64_t{sizeof(Partial)}));
      if (columns) y_parts = reinterpret_cast<Partial*>(take(grid.x_supers * count * int64_t{sizeof(Partial)}));
      const int64_t sums = pairwise_tile_sums_size(count, count, width, dtype, form == ViewForm::stacked, columns);
      if (sums > 0) tile_sums = reinterpret_cast<Partial*>(take(sums * int64_t{sizeof(Partial)}));
    }
    if (!backward) return;
    scale_parts = take(n * real);
    if (!own_product) return;
    product = take(2 * n * width * real);
    if (!kFloat) return;
    weights[0] = reinterpret_cast<Weight*>(take(count * int64_t{sizeof(Weight)}));
    if (form != ViewForm::stacked)
      weights[1] = reinterpret_cast<Weight*>(take(n * int64_t{sizeof(Weight)}));
    else if (base != nullptr)
      weights[1] = weights[0] + n;
    const int64_t splits = pairwise_chained_splits(count, count);
    if (splits == 1) return;
    parts[0] = reinterpret_cast<float*>(take(splits * count * (width + 2) * 4));
    if (form != ViewForm::stacked)
      parts[1] = reinterpret_cast<float*>(take(splits * count * (width + 2) * 4));
    else if (base != nullptr)
      parts[1] = parts[0] + n * (width + 2);
  }
};

template <typename T>
ViewBuffers<T> buffers(const Views& v, const TensorView& workspace, bool backward, bool own_product) {
  const ViewBuffers<T> sizes(nullptr, v.n, v.width, v.multiplied, v.form, backward, own_product);
  check_vector(kOp, "workspace", workspace, sizes.size, v.real, v.device);
  return ViewBuffers<T>(workspace.as<T>(), v.n, v.width, v.multiplied, v.form, backward, own_product);
}

template <typename Z>
bool wide(const TensorView& t) {  // in packs of 16 bytes?
  constexpr int64_t kPack = 16 / sizeof(Z);
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride[0] % kPack == 0 && t.shape[1] % kPack == 0;
}

template <typename T>
void launch_factors(const Views& v, const ViewBuffers<T>& w, const TensorView& grad) {
  const LossGradient<T> above = {grad.as<T>(),
                                 {v.stacked() ? grad.stride[0] : 0, grad.stride[grad.ndim - 1]},
                                 static_cast<T>(v.columns() ? 0.5 : 1.0)};
  launch("two_views_factors", views_factor_kernel<T>, v.by_row(), kViewThreads, 0, v.stream, v.stats<T>(), v.n,
         v.form != ViewForm::rows, pairs_of(v.problem<T>(0)), above, w.factors, w.weights[0], w.weights[1]);
}

// c W y of operand o; or parts of W y where there are some, for the pass through the normalisation
template <typename T>
void multiply(const Views& v, const T* factors, Weight* const (&weights)[2], int o, T* product, float* parts) {
  const PairwiseProblem p = v.problem<T>(o);
  const bool of_rows = v.form != ViewForm::rows || o == 0, of_columns = v.form != ViewForm::rows || o == 1;
  if constexpr (std::is_same_v<T, double>) {
    const double* negatives = v.stats<double>().negatives;
    const int64_t x = o * v.n, y = v.stacked() ? 0 : (1 - o) * v.n;
    pairwise_backward_f64(p, negatives + x, of_rows ? factors + x : nullptr, negatives + y,
                          of_columns ? factors + y : nullptr, product, nullptr, nullptr);
  } else {
    SSLSPEC_CHECK(pairwise_chained_fits(v.width, v.multiplied, device_shared_limit(v.device)), kOp,
                  ": the chained backward takes at most 256 columns, got ", v.width);
    PairwiseBackward back{};
    back.x_weights = of_rows ? weights[o] : nullptr;
    back.y_weights = of_columns ? weights[v.stacked() ? 0 : 1 - o] : nullptr;
    back.parts = parts, back.splits = pairwise_chained_splits(v.count(), v.count());
    back.grad = back.splits > 1 ? nullptr : product, back.grad_f32 = true;
    pairwise_chained(p, back);
  }
}

// The weights of `stats` for the rows z1 as a matrix.
PairwiseBackward matrix_weights(const Views& v) {
  const KeptWeights<float> kept = v.kept<float>();
  PairwiseBackward back{};
  back.x_weights = kept.weights[0];
  back.y_weights = v.form == ViewForm::rows ? nullptr : kept.weights[v.stacked() ? 0 : 1];
  return back;
}

template <typename T>
void statistics(const Views& v, const ViewBuffers<T>& w, bool tries) {
  PairwiseProblem p = v.problem<T>(0);
  if constexpr (std::is_same_v<T, double>) {
    double* negatives = v.stats<double>().negatives;
    pairwise_forward_f64(p, negatives);
    if (v.columns()) pairwise_forward_f64(v.problem<double>(1), negatives + v.n);
  } else {
    pairwise_statistics(p, w.x_parts, w.y_parts, w.tile_sums);
    if (!tries) return;
    pairwise_check_sums(p, w.x_parts, w.y_parts);
    p.again = true;
    pairwise_statistics(p, w.x_parts, w.y_parts, w.tile_sums);
  }
}

}  // namespace

void views_unit(const Views& v, const TensorView& scale, double number, unsigned* counter, bool tries) {
  const ViewInputs& in = v.in;
  dispatch_rows(kOp, v.dtype, [&](auto rows) {
    using Z = typename decltype(rows)::type;
    using T = Real<Z>;
    constexpr int kPack = 16 / sizeof(Z);
    const bool packed = wide<Z>(in.z1) && wide<Z>(in.z2) && (!v.copied() || wide<Multiplied<Z>>(in.u));
    const auto unit = packed    ? in.unit ? views_unit_kernel<Z, kPack, true> : views_unit_kernel<Z, kPack, false>
                         : in.unit ? views_unit_kernel<Z, 1, true>
                                : views_unit_kernel<Z, 1, false>;
    launch("two_views_unit", unit, in.unit ? v.by_pair() : v.by_bound(), in.unit ? kViewThreads : kBoundThreads, 0,
           v.stream, v.rows<Z>(), scale.as<T>(), static_cast<T>(number), counter,
           v.keeps ? v.kept<T>().flushed : nullptr, tries);
  });
}

int64_t two_views_stats_size(int64_t n, bool number) {
  // without copies of the weights that lie behind each other: those of stacked views take as much
  return number ? KeptWeights<float>(nullptr, n, false).size + 1 : 7 * n + 8 * ceil_div(n, kBoundRows) + 1;
}

int64_t two_views_vectors_size(int64_t rows) { return pairwise_vectors_size(rows, rows); }

int64_t two_views_workspace_size(int64_t n, int64_t width, int dtype, int form, bool backward, bool own_product) {
  const auto type = static_cast<DType>(dtype);
  const auto kind = static_cast<ViewForm>(form);
  if (type == DType::f64) return ViewBuffers<double>(nullptr, n, width, type, kind, backward, own_product).size;
  return ViewBuffers<float>(nullptr, n, width, type, kind, backward, own_product).size;
}

void two_views_forward(const ViewInputs& views, TensorView scale, double number, TensorView loss, double weight,
                       const Run& run, bool fast, bool tries) {
  const Views v(views, run, fast);
  v.check_loss("loss", loss);
  SSLSPEC_CHECK(!tries || (v.keeps && v.real == DType::f32), kOp, ": one shift is tried for one number in float32");
  if (scale.present()) v.check_scalar("scale", scale);
  SSLSPEC_CHECK(
      loss.ndim == 0 || v.n <= 1 || (loss.stride[loss.ndim - 1] == 1 && (loss.ndim == 1 || loss.stride[0] == v.n)), kOp,
      ": loss must be contiguous");
  SSLSPEC_CHECK(v.keeps == (loss.ndim == 0), kOp, ": stats are those of another reduction");
  const DeviceGuard guard(v.device);
  dispatch_rows(kOp, v.dtype, [&](auto rows) {
    using Z = typename decltype(rows)::type;
    using T = Real<Z>;
    const ViewBuffers<T> w = buffers<T>(v, run.workspace, false, false);
    views_unit(v, scale, number, w.counter, tries);
    statistics<T>(v, w, tries);
    const PairwiseGrid grid(v.count(), v.count());
    LossTotal<T> total{};
    if (v.keeps) {
      const KeptWeights<T> kept = v.kept<T>();
      const bool weights = v.real == DType::f32;
      total = {loss.as<T>(), weight, w.partials, w.counter, kept.factors, {}};
      if (weights) total.weights[0] = kept.weights[0], total.weights[1] = kept.weights[1];
    }
    const dim3 blocks(static_cast<unsigned>(ceil_div(v.count(), kViewThreads)));
    launch("two_views_loss", views_loss_kernel<T>, blocks, kViewThreads, 0, v.stream, v.stats<T>(), v.n, v.stacked(),
           v.columns(), ViewParts{w.x_parts, grid.y_supers}, ViewParts{w.y_parts, grid.x_supers}, loss.as<T>(),
           pairs_of(v.problem<T>(0)), total);
    if (v.in.matrix.present()) pairwise_kept_weights(v.problem<float>(0), matrix_weights(v));
  });
}

void two_views_factors(const ViewInputs& views, TensorView grad, const Run& run) {
  const Views v(views, run, false);
  v.check_loss("grad", grad);
  SSLSPEC_CHECK(grad.ndim != 0, kOp, ": the factors of one number are in stats");
  const DeviceGuard guard(v.device);
  if (v.real == DType::f64)
    launch_factors<double>(v, buffers<double>(v, run.workspace, true, false), grad);
  else
    launch_factors<float>(v, buffers<float>(v, run.workspace, true, false), grad);
}

void two_views_weight_rows(const ViewInputs& views, int64_t row0, TensorView weights, const Run& run, bool fast) {
  const Views v(views, run, fast);
  SSLSPEC_CHECK(v.keeps && v.real == DType::f32, kOp, ": stats of one number in float32 hold weights");
  const int pieces = v.multiplied == DType::f32 && weights.dtype == DType::bf16 ? kWeightPieces : 1;
  const int64_t count = v.count(), rows = weights.shape[0] / pieces;
  SSLSPEC_CHECK(weights.ndim == 2 && rows * pieces == weights.shape[0] && row0 >= 0 && row0 % 128 == 0 &&
                    row0 + rows <= count && (rows % 128 == 0 || row0 + rows == count),
                kOp, ": rows ", row0, " to ", row0 + rows, " must be multiples of 128 or end at ", count);
  check_matrix(kOp, "weights", weights, pieces * rows, count, pieces == 1 ? v.multiplied : DType::bf16, v.device);
  check_vector(kOp, "workspace", run.workspace, pairwise_vectors_size(count, count), DType::f32, v.device);
  PairwiseBackward back = matrix_weights(v);
  back.vectors = run.workspace.as<float>();
  pairwise_weights(v.problem<float>(0), back, {row0, rows, weights.data, weights.stride[0], pieces});
}

void two_views_backward(const ViewInputs& views, TensorView grad, const TensorPair& products, const TensorPair& grad_z,
                        TensorView grad_scale, const Run& run, bool fast, bool by_row) {
  const Views v(views, run, fast);
  const bool own = !products.first.present(), second_grad = grad_z.second.present();
  v.check_gradient("grad_z1", grad_z.first);
  if (second_grad) v.check_gradient("grad_z2", grad_z.second);
  SSLSPEC_CHECK(second_grad || !v.stacked(), kOp, ": stacked views have both gradients");
  if (grad_scale.present()) v.check_scalar("grad_scale", grad_scale);
  v.check_loss("grad", grad);
  SSLSPEC_CHECK(v.keeps == (grad.ndim == 0), kOp, ": stats are those of another reduction");
  SSLSPEC_CHECK(own || products.second.present() == second_grad, kOp, ": the second product goes with grad_z2");
  SSLSPEC_CHECK(!by_row || (!own && v.keeps && v.form == ViewForm::rows && v.real == DType::f32), kOp,
                ": factors of rows go with products of one number");
  for (const TensorView& product : {products.first, products.second}) {
    if (!product.present()) continue;
    check_matrix(kOp, "product", product, v.n, v.width, v.real, v.device);
    SSLSPEC_CHECK(v.n <= 1 || product.stride[0] == v.width, kOp, ": products must be contiguous");
  }
  const DeviceGuard guard(v.device);
  dispatch_rows(kOp, v.dtype, [&](auto rows) {
    using Z = typename decltype(rows)::type;
    using T = Real<Z>;
    constexpr int kPack = 16 / sizeof(Z);
    const ViewBuffers<T> w = buffers<T>(v, run.workspace, true, own);
    const KeptWeights<T> kept = v.kept<T>();
    const T* factors = v.keeps ? kept.factors : w.factors;
    ViewGradient<Z> g = {{products.first.as<T>(), products.second.as<T>()},
                         v.width,
                         1,
                         0,
                         !own && v.keeps,
                         factors,
                         by_row ? reinterpret_cast<const T*>(kept.weights[0]) : nullptr,
                         v.keeps ? grad.as<T>() : nullptr,
                         {grad_z.first.as<Z>(), grad_z.second.as<Z>()},
                         grad_scale.present() ? w.scale_parts : nullptr};
    if (own) {
      if (!v.keeps) launch_factors<T>(v, w, grad);
      T* product[2] = {w.product, w.product + v.n * v.width};
      for (int o = 0; o < (second_grad && !v.stacked() ? 2 : 1); ++o)
        multiply<T>(v, factors, v.keeps ? kept.weights : w.weights, o, product[o], w.parts[o]);
      if constexpr (std::is_same_v<T, float>)
        if (w.parts[0] != nullptr) {
          product[0] = w.parts[0], product[1] = w.parts[1], g.pitch = v.width + 2;
          g.splits = pairwise_chained_splits(v.count(), v.count()), g.step = v.count() * g.pitch;
          g.unscaled = true;
        }
      g.product[0] = product[0], g.product[1] = second_grad ? product[1] : nullptr;
    }
    const bool packed =
        wide<Z>(views.z1) && wide<Z>(views.z2) && wide<Z>(grad_z.first) && (!second_grad || wide<Z>(grad_z.second));
    launch("two_views_gradient", packed ? views_gradient_kernel<Z, kPack> : views_gradient_kernel<Z, 1>, v.by_pair(),
           kViewThreads, 0, v.stream, v.rows<Z>(), g);
    if (grad_scale.present())
      launch("two_views_sum", views_sum_kernel<T>, dim3(1), kSumThreads, 0, v.stream, w.scale_parts, v.n, 1.0,
             grad_scale.as<T>());
  });
}

}  // namespace sslspec::cuda

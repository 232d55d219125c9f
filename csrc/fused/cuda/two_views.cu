// Entry points of two_views.h: checks, the layout of the workspace, and the order of the launches.
#include "fused/cuda/two_views.cuh"

#include "fused/cuda/two_views.h"

namespace sslspec::cuda {
namespace {

constexpr const char* kOp = "two_views";

DType multiplied_type(DType rows) { return rows == DType::bf16 ? DType::bf16 : computed_type(rows); }

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

// What the backward pass of one number reads of `stats`, behind the bounds: w, and in float32 the weights of both
// operands, each at 16 bytes (bulk copies) unless stacked.
template <typename T>
struct KeptWeights {
  T* factors;
  Weight* weights[2];
  int64_t size;

  KeptWeights(T* base, int64_t n, bool stacked) {
    const auto aligned = [](int64_t elements) { return (elements + 3) / 4 * 4; };
    const int64_t begin = 7 * n + 8 * ceil_div(n, kBoundRows), first = aligned(begin + 2 * n),
                  second = stacked ? first + 2 * n : first + aligned(2 * n);
    factors = base + begin;
    weights[0] = reinterpret_cast<Weight*>(base + first), weights[1] = reinterpret_cast<Weight*>(base + second);
    size = first + aligned(2 * n) + aligned(2 * n);
  }
};

// The inputs that both passes share, checked.
struct Views {
  ViewInputs in;
  ViewForm form;
  int64_t n, d, width, stream;
  DType dtype, multiplied, real;  // of z, of what is multiplied, of the statistics
  int device;
  bool fast, keeps;  // keeps: of one number, whose weights stay in `stats`

  Views(const ViewInputs& in, const Run& run, bool fast)
      : in(in), form(static_cast<ViewForm>(in.form)), n(in.z1.shape[0]), d(in.z1.shape[1]), width(in.u.shape[1]),
        stream(run.stream), dtype(in.z1.dtype), multiplied(multiplied_type(dtype)), real(computed_type(dtype)),
        device(in.z1.device), fast(fast) {
    SSLSPEC_CHECK(device != kCpu, kOp, ": z1 must be on a CUDA device");
    SSLSPEC_CHECK(in.z1.ndim == 2, kOp, ": z1 must be (n, d), got ", shape_text(in.z1));
    SSLSPEC_CHECK(dtype != DType::i32 && dtype != DType::i64, kOp, ": z1 must be floating point, got ", dtype);
    SSLSPEC_CHECK(in.form >= 0 && in.form <= 2 && (in.unit || !stacked()), kOp, ": there is no form ", in.form);
    check_rows("z1", in.z1);
    check_rows("z2", in.z2);
    SSLSPEC_CHECK(in.u.ndim == 2, kOp, ": u must be a matrix, got ", shape_text(in.u));
    check_matrix(kOp, "u", in.u, copied() ? 2 * n : 0, width, multiplied, device);
    SSLSPEC_CHECK(width >= d && (dtype == DType::f64 || width * element() % 16 == 0), kOp,
                  ": rows of u must be a multiple of 16 bytes and have at least ", d, " columns, got ", width);
    const bool fits = !in.unit && dtype == multiplied && width == d && at_16_bytes(in.z1) && at_16_bytes(in.z2);
    SSLSPEC_CHECK(copied() ? in.u.stride[0] == width : fits, kOp,
                  ": rows must be copied to u (contiguous) unless they are multiplied as they are");
    const int64_t single = 7 * n + 8 * ceil_div(n, kBoundRows) + 1;
    keeps = in.stats.shape[0] != single;
    check_vector(kOp, "stats", in.stats, keeps ? two_views_stats_size(n, true) : single, real, device);
  }

  bool stacked() const { return form == ViewForm::stacked; }
  bool columns() const { return form == ViewForm::both; }
  bool copied() const { return in.u.shape[0] != 0; }
  int64_t count() const { return stacked() ? 2 * n : n; }  // of losses, and rows of the problem
  int64_t element() const { return multiplied == DType::bf16 ? 2 : multiplied == DType::f64 ? 8 : 4; }
  bool at_16_bytes(const TensorView& z) const {
    return dtype == DType::f64 ||
           (reinterpret_cast<uintptr_t>(z.data) % 16 == 0 && (n <= 1 || z.stride[0] * element() % 16 == 0));
  }

  void check_rows(const char* name, const TensorView& z) const { check_matrix(kOp, name, z, n, d, dtype, device); }
  void check_gradient(const char* name, const TensorView& z) const {
    check_rows(name, z);
    SSLSPEC_CHECK(n <= 1 || z.stride[0] == d, kOp, ": ", name, " must be contiguous");
  }
  void check_scalar(const char* name, const TensorView& t) const {
    check_dense(kOp, name, t, 0, nullptr, real, device);
  }
  void check_loss(const char* name, const TensorView& t) const {
    const bool fits =
        t.ndim == 0 || (stacked() ? t.ndim == 2 && t.shape[0] == 2 && t.shape[1] == n : t.ndim == 1 && t.shape[0] == n);
    SSLSPEC_CHECK(fits, kOp, ": ", name, " must be a scalar or hold ", count(), " losses, got ", shape_text(t));
    SSLSPEC_CHECK(t.dtype == real && t.device == device, kOp, ": ", name, " must be ", real, " on device ", device);
  }

  template <typename T>
  ViewBuffers<T> buffers(const TensorView& workspace, bool backward, bool own_product) const {
    const ViewBuffers<T> sizes(nullptr, n, width, multiplied, form, backward, own_product);
    check_vector(kOp, "workspace", workspace, sizes.size, real, device);
    return ViewBuffers<T>(workspace.as<T>(), n, width, multiplied, form, backward, own_product);
  }
  template <typename T>
  ViewStats<T> stats() const {
    T* p = in.stats.as<T>();
    return {p,
            p + 2 * n,
            p + 3 * n,
            p + in.stats.shape[0] - 1,
            reinterpret_cast<int32_t*>(p + 5 * n),
            reinterpret_cast<BlockBound*>(p + 7 * n)};
  }
  template <typename T>
  KeptWeights<T> kept() const {
    return {in.stats.as<T>(), n, stacked()};
  }
  template <typename T>
  BlockBound* bounds(int o) const {
    return stats<T>().bounds + (stacked() ? 0 : o * ceil_div(n, kBoundRows));
  }
  template <typename Z>
  ViewRows<Z> rows() const {
    return {n,
            d,
            width,
            {in.z1.as<Z>(), in.z2.as<Z>()},
            {in.z1.stride[0], in.z2.stride[0]},
            copied() ? in.u.as<Multiplied<Z>>() : nullptr,
            stats<Real<Z>>(),
            in.unit,
            stacked()};
  }
  TensorView operand(int o) const {
    if (!copied()) return o == 0 ? in.z1 : in.z2;
    TensorView t = in.u;
    if (stacked()) return t;
    t.data = static_cast<unsigned char*>(t.data) + o * n * width * element(), t.shape[0] = n;
    return t;
  }
  // s_ij of operand o by rows
  template <typename T>
  PairwiseProblem problem(int o) const {
    PairwiseProblem p{};
    p.x = operand(o), p.y = operand(1 - o);
    p.scale = stats<T>().scale;
    if (stacked()) p.x_ids = p.y_ids = stats<T>().ids;
    p.skip_self = true, p.symmetric = stacked();
    p.precision = fast ? Precision::fast : Precision::exact;
    p.x_bounds = bounds<T>(o), p.y_bounds = bounds<T>(1 - o);
    p.device = device, p.stream = stream;
    return p;
  }
  dim3 by_pair() const { return dim3(static_cast<unsigned>(ceil_div(n, kViewWarps))); }
  dim3 by_bound() const { return dim3(static_cast<unsigned>(ceil_div(n, kBoundRows))); }
  dim3 by_row() const { return dim3(static_cast<unsigned>(ceil_div(2 * n, kViewThreads))); }
};

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

template <typename T>
void statistics(const Views& v, const ViewBuffers<T>& w) {
  const PairwiseProblem p = v.problem<T>(0);
  if constexpr (std::is_same_v<T, double>) {
    double* negatives = v.stats<double>().negatives;
    pairwise_forward_f64(p, negatives);
    if (v.columns()) pairwise_forward_f64(v.problem<double>(1), negatives + v.n);
  } else {
    pairwise_statistics(p, w.x_parts, w.y_parts, w.tile_sums);
  }
}

}  // namespace

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
                       const Run& run, bool fast) {
  const Views v(views, run, fast);
  v.check_loss("loss", loss);
  if (scale.present()) v.check_scalar("scale", scale);
  SSLSPEC_CHECK(
      loss.ndim == 0 || v.n <= 1 || (loss.stride[loss.ndim - 1] == 1 && (loss.ndim == 1 || loss.stride[0] == v.n)), kOp,
      ": loss must be contiguous");
  SSLSPEC_CHECK(v.keeps == (loss.ndim == 0), kOp, ": stats are those of another reduction");
  const DeviceGuard guard(v.device);
  dispatch_rows(kOp, v.dtype, [&](auto rows) {
    using Z = typename decltype(rows)::type;
    using T = Real<Z>;
    constexpr int kPack = 16 / sizeof(Z);
    const ViewBuffers<T> w = v.buffers<T>(run.workspace, false, false);
    const bool packed = wide<Z>(views.z1) && wide<Z>(views.z2) && (!v.copied() || wide<Multiplied<Z>>(views.u));
    const auto unit = packed       ? views.unit ? views_unit_kernel<Z, kPack, true> : views_unit_kernel<Z, kPack, false>
                            : views.unit ? views_unit_kernel<Z, 1, true>
                                   : views_unit_kernel<Z, 1, false>;
    launch("two_views_unit", unit, views.unit ? v.by_pair() : v.by_bound(), views.unit ? kViewThreads : kBoundThreads,
           0, v.stream, v.rows<Z>(), scale.as<T>(), static_cast<T>(number), w.counter);
    statistics<T>(v, w);
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
  });
}

void two_views_factors(const ViewInputs& views, TensorView grad, const Run& run) {
  const Views v(views, run, false);
  v.check_loss("grad", grad);
  SSLSPEC_CHECK(grad.ndim != 0, kOp, ": the factors of one number are in stats");
  const DeviceGuard guard(v.device);
  if (v.real == DType::f64)
    launch_factors<double>(v, v.buffers<double>(run.workspace, true, false), grad);
  else
    launch_factors<float>(v, v.buffers<float>(run.workspace, true, false), grad);
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
  const KeptWeights<float> kept = v.kept<float>();
  PairwiseBackward back{};
  back.x_weights = kept.weights[0];
  back.y_weights = v.form == ViewForm::rows ? nullptr : kept.weights[v.stacked() ? 0 : 1];
  back.vectors = run.workspace.as<float>();
  pairwise_weights(v.problem<float>(0), back, {row0, rows, weights.data, weights.stride[0], pieces});
}

void two_views_backward(const ViewInputs& views, TensorView grad, const TensorPair& products, const TensorPair& grad_z,
                        TensorView grad_scale, const Run& run, bool fast) {
  const Views v(views, run, fast);
  const bool own = !products.first.present(), second_grad = grad_z.second.present();
  v.check_gradient("grad_z1", grad_z.first);
  if (second_grad) v.check_gradient("grad_z2", grad_z.second);
  SSLSPEC_CHECK(second_grad || !v.stacked(), kOp, ": stacked views have both gradients");
  if (grad_scale.present()) v.check_scalar("grad_scale", grad_scale);
  v.check_loss("grad", grad);
  SSLSPEC_CHECK(v.keeps == (grad.ndim == 0), kOp, ": stats are those of another reduction");
  SSLSPEC_CHECK(own || products.second.present() == second_grad, kOp, ": the second product goes with grad_z2");
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
    const ViewBuffers<T> w = v.buffers<T>(run.workspace, true, own);
    const KeptWeights<T> kept = v.kept<T>();
    const T* factors = v.keeps ? kept.factors : w.factors;
    ViewGradient<Z> g = {{products.first.as<T>(), products.second.as<T>()},
                         v.width,
                         1,
                         0,
                         !own && v.keeps,
                         factors,
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

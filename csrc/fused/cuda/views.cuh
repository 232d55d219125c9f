// The inputs of two_views.h, checked, and where their statistics lie.
#pragma once
#include "fused/cuda/two_views.cuh"
#include "fused/cuda/two_views.h"

namespace sslspec::cuda {

inline constexpr const char* kViewsOp = "two_views";

inline DType multiplied_type(DType rows) { return rows == DType::bf16 ? DType::bf16 : computed_type(rows); }

// What the backward pass of one number reads of `stats`, behind the bounds: w, and in float32 the weights of both
// operands, each at 16 bytes (bulk copies) unless stacked; and whether one shift was not enough (pairs.cuh).
template <typename T>
struct KeptWeights {
  T* factors;
  Weight* weights[2];
  int32_t* flushed;
  int64_t size;

  KeptWeights(T* base, int64_t n, bool stacked) {
    const auto aligned = [](int64_t elements) { return (elements + 3) / 4 * 4; };
    const int64_t begin = 7 * n + 8 * ceil_div(n, kBoundRows), first = aligned(begin + 2 * n),
                  second = stacked ? first + 2 * n : first + aligned(2 * n);
    factors = base + begin;
    weights[0] = reinterpret_cast<Weight*>(base + first), weights[1] = reinterpret_cast<Weight*>(base + second);
    const int64_t end = first + aligned(2 * n) + aligned(2 * n);
    flushed = reinterpret_cast<int32_t*>(base + end), size = end + 4;
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
    SSLSPEC_CHECK(device != kCpu, kViewsOp, ": z1 must be on a CUDA device");
    SSLSPEC_CHECK(in.z1.ndim == 2, kViewsOp, ": z1 must be (n, d), got ", shape_text(in.z1));
    SSLSPEC_CHECK(dtype != DType::i32 && dtype != DType::i64, kViewsOp, ": z1 must be floating point, got ", dtype);
    SSLSPEC_CHECK(in.form >= 0 && in.form <= 2 && (in.unit || !stacked()), kViewsOp, ": there is no form ", in.form);
    check_rows("z1", in.z1);
    check_rows("z2", in.z2);
    SSLSPEC_CHECK(in.u.ndim == 2, kViewsOp, ": u must be a matrix, got ", shape_text(in.u));
    check_matrix(kViewsOp, "u", in.u, copied() ? 2 * n : 0, width, multiplied, device);
    SSLSPEC_CHECK(width >= d && (dtype == DType::f64 || width * element() % 16 == 0), kViewsOp,
                  ": rows of u must be a multiple of 16 bytes and have at least ", d, " columns, got ", width);
    const bool fits = !in.unit && dtype == multiplied && width == d && at_16_bytes(in.z1) && at_16_bytes(in.z2);
    SSLSPEC_CHECK(copied() ? in.u.stride[0] == width : fits, kViewsOp,
                  ": rows must be copied to u (contiguous) unless they are multiplied as they are");
    const int64_t single = 7 * n + 8 * ceil_div(n, kBoundRows) + 1;
    keeps = in.stats.shape[0] != single;
    check_vector(kViewsOp, "stats", in.stats, keeps ? two_views_stats_size(n, true) : single, real, device);
    if (!in.matrix.present()) return;
    const int64_t side = ceil_div(count(), kBoundRows) * kBoundRows;
    SSLSPEC_CHECK(keeps && form != ViewForm::rows && multiplied == DType::bf16, kViewsOp,
                  ": a matrix of weights goes with one number of bfloat16 rows");
    check_matrix(kViewsOp, "matrix", in.matrix, side, side, DType::bf16, device);
    SSLSPEC_CHECK(in.matrix.stride[0] == side && reinterpret_cast<uintptr_t>(in.matrix.data) % 16 == 0, kViewsOp,
                  ": the matrix must be contiguous and start at 16 bytes");
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

  void check_rows(const char* name, const TensorView& z) const { check_matrix(kViewsOp, name, z, n, d, dtype, device); }
  void check_gradient(const char* name, const TensorView& z) const {
    check_rows(name, z);
    SSLSPEC_CHECK(n <= 1 || z.stride[0] == d, kViewsOp, ": ", name, " must be contiguous");
  }
  void check_scalar(const char* name, const TensorView& t) const {
    check_dense(kViewsOp, name, t, 0, nullptr, real, device);
  }
  void check_loss(const char* name, const TensorView& t) const {
    const bool fits =
        t.ndim == 0 || (stacked() ? t.ndim == 2 && t.shape[0] == 2 && t.shape[1] == n : t.ndim == 1 && t.shape[0] == n);
    SSLSPEC_CHECK(fits, kViewsOp, ": ", name, " must be a scalar or hold ", count(), " losses, got ", shape_text(t));
    SSLSPEC_CHECK(t.dtype == real && t.device == device, kViewsOp, ": ", name, " must be ", real, " on device ",
                  device);
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
    if (keeps) p.flushed = kept<T>().flushed;
    if (o == 0 && in.matrix.present()) p.kept = {in.matrix.data, in.matrix.stride[0]};
    p.device = device, p.stream = stream;
    return p;
  }
  dim3 by_pair() const { return dim3(static_cast<unsigned>(ceil_div(n, kViewWarps))); }
  dim3 by_bound() const { return dim3(static_cast<unsigned>(ceil_div(n, kBoundRows))); }
  dim3 by_row() const { return dim3(static_cast<unsigned>(ceil_div(2 * n, kViewThreads))); }
};

// The first launch of a forward pass: unit rows, ids and bounds, products x . y, the scale (absent: the number); 0 to the
// counter; and whether one shift is tried for all logits.
void views_unit(const Views& v, const TensorView& scale, double number, unsigned* counter, bool tries);

}  // namespace sslspec::cuda

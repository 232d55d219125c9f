// Every kernel of the core on fixed inputs, for tests/core/program.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "basis/basis.h"
#include "fused/guided.h"
#include "fused/per_positive.h"
#include "fused/spectral_contrastive.h"
#include "fused/two_views.h"
#include "gram/gram.h"
#include "normality/pairwise_kernel.h"
#include "normality/sliced_ecf.h"
#include "pairwise/pairwise.h"
#include "pairwise/prefixes.h"
#include "pairwise/soft.h"
#include "pairwise/soft_self.h"
#include "rows/moments.h"
#include "rows/unit_rows.h"
#include "simd/isa.h"
#include "sparse/edges.h"
#include "sparse/graph_cov.h"
#include "sparse/spmm.h"

namespace sslspec {
namespace {

template <typename T>
constexpr DType dtype_of() {
  return std::is_same_v<T, float>      ? DType::f32
         : std::is_same_v<T, double>   ? DType::f64
         : std::is_same_v<T, uint16_t> ? DType::bf16
         : std::is_same_v<T, int32_t>  ? DType::i32
                                       : DType::i64;
}

// A contiguous array that owns its memory.
template <typename T>
struct Array {
  std::vector<T> data;
  TensorView view;

  Array(std::initializer_list<int64_t> shape, T value = T(0)) {
    int64_t size = 1;
    for (const int64_t length : shape) view.shape[view.ndim++] = length, size *= length;
    for (int64_t i = view.ndim - 1, step = 1; i >= 0; step *= view.shape[i--]) view.stride[i] = step;
    data.assign(static_cast<size_t>(std::max<int64_t>(size, 1)), value);
    view.data = data.data(), view.dtype = dtype_of<T>();
  }
  Array(const Array&) = delete;
  operator TensorView() const { return view; }
};

template <typename T>
void fill(Array<T>& a, unsigned seed) {
  for (T& x : a.data) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<T>(static_cast<double>(seed >> 8) / (1 << 23) - 1.0);
  }
}

template <typename T>
struct Filled : Array<T> {
  Filled(std::initializer_list<int64_t> shape, unsigned seed) : Array<T>(shape) { fill(*this, seed); }
};

// An array that a kernel wrote.
struct Result {
  std::string kernel;
  int digits;    // of the kernel's numbers, as a power of two
  bool wide;     // the array is of double
  double units;  // by which the result of another processor may differ, in the last place of the largest entry
  std::vector<unsigned char> bytes;

  bool operator==(const Result& other) const { return kernel == other.kernel && bytes == other.bytes; }
};

// The threads of the calls, and what they wrote.
struct Results {
  int threads;
  int digits = 0;
  std::string kernel = "";
  // Sums of thousands of terms in another order differ by a few units, by 32 where the terms cancel (means of columns).
  double units = 64;
  std::vector<Result> arrays = {};

  Run with(const TensorView& workspace) const { return {workspace, threads}; }

  template <typename T>
  void keep(const Array<T>& a) {
    static_assert(std::is_floating_point_v<T>);
    const auto* first = reinterpret_cast<const unsigned char*>(a.data.data());
    arrays.push_back({kernel, digits, sizeof(T) == 8, units, {first, first + a.data.size() * sizeof(T)}});
  }
  template <typename... A>
  void keep(const A&... arrays) {
    (keep(arrays), ...);
  }
};

constexpr TensorView kNone{};

template <typename T>
void softmax(Results& out, int64_t n, int64_t m, int64_t d, bool symmetric, bool ids) {
  out.kernel = __func__;
  const int kind = static_cast<int>(dtype_of<T>());
  const Filled<T> a({n, d}, 1), b({m, d}, 2), grad_row({n}, 3), grad_col({m}, 4);
  Array<T> scale({}, T(0.7)), row({n}), col({m}), grad_a({n, d}), grad_b({m, d});
  Array<int32_t> ids_a({n}), ids_b({m});
  for (int64_t i = 0; i < n; ++i) ids_a.data[i] = static_cast<int32_t>(i % 50);
  for (int64_t j = 0; j < m; ++j) ids_b.data[j] = static_cast<int32_t>(j % 50);
  const TensorView right = symmetric ? kNone : b.view, left_ids = ids ? ids_a.view : kNone,
                   right_ids = ids && !symmetric ? ids_b.view : kNone;
  const TensorView columns = symmetric ? kNone : col.view, gradient = symmetric ? kNone : grad_col.view;
  Array<int64_t> kept({1});
  Array<T> work({pairwise_workspace_size(n, m, d, kind, symmetric, false)});
  Filled<T> limit({n}, 5);
  const Logits logits{
      a, right, scale, kNone, {left_ids, right_ids, kNone, kNone, true}, ids && !symmetric ? limit.view : kNone};
  pairwise_forward(logits, {row, columns}, kept, out.with(work));
  Array<T> more({pairwise_workspace_size(n, m, d, kind, symmetric, true)});
  pairwise_backward(logits, {row, columns}, {grad_row, gradient}, {grad_a, symmetric ? kNone : grad_b.view}, kept,
                    out.with(more));
  out.keep(row, col, grad_a, grad_b);
}

void pairs_of_bf16(Results& out, int64_t n, int64_t m, int64_t d) {
  out.kernel = __func__;
  if (!cpu::bf16_products()) return;
  const auto rounded = [](Array<uint16_t>& out, unsigned seed) {
    Filled<float> x({static_cast<int64_t>(out.data.size())}, seed);
    for (size_t i = 0; i < out.data.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &x.data[i], sizeof bits);
      out.data[i] = static_cast<uint16_t>(bits >> 16);
    }
  };
  Array<uint16_t> a({n, d}), b({m, d});
  rounded(a, 1), rounded(b, 2);
  const Filled<float> grad_row({n}, 3), grad_col({m}, 4);
  Array<float> scale({}, 0.7f), row({n}), col({m}), grad_a({n, d}), grad_b({m, d});
  const int kind = static_cast<int>(DType::bf16);
  Array<int64_t> kept({1});
  Array<float> work({pairwise_workspace_size(n, m, d, kind, false, false)});
  const Logits logits{a, b, scale, kNone, {}};
  pairwise_forward(logits, {row, col}, kept, out.with(work));
  Array<float> more({pairwise_workspace_size(n, m, d, kind, false, true)});
  pairwise_backward(logits, {row, col}, {grad_row, grad_col}, {grad_a, grad_b}, kept, out.with(more));
  out.keep(row, col, grad_a, grad_b);
  Array<float> bias({}, -1.0f), by_bias({n});
  const Logits biased{a, b, scale, bias, {kNone, kNone, kNone, kNone, true}};
  pairwise_sigmoid_forward(biased, row, out.with(work));
  pairwise_sigmoid_backward(biased, grad_row, by_bias, kNone, {grad_a, grad_b}, out.with(more));
  out.keep(row, by_bias, grad_a, grad_b);
  const Filled<float> each({n}, 5), positive({n}, 6);
  pairwise_sigmoid_backward({a, b, each, bias, {}}, grad_row, by_bias, row, {grad_a, grad_b}, out.with(more));
  out.keep(row, by_bias, grad_a, grad_b);
  Array<float> panel({pairwise_one_positive_panel_size(n, m, kind)}), grad_positive({n});
  pairwise_one_positive(logits, positive, grad_row, row, grad_positive, {grad_a, grad_b}, panel, out.with(more));
  out.keep(row, grad_positive, grad_a, grad_b);
}

template <typename T>
void sigmoid_and_rows(Results& out, int64_t n, int64_t m, int64_t d) {
  out.kernel = __func__;
  const int kind = static_cast<int>(dtype_of<T>());
  const Filled<T> a({n, d}, 1), b({m, d}, 2), weight({n}, 3), positive({n}, 4);
  Array<T> scale({}, T(0.7)), bias({}, T(-1)), row({n}), again({n}), by_bias({n}), grad_a({n, d}), grad_b({m, d});
  Array<T> work({pairwise_workspace_size(n, m, d, kind, false, false)});
  const LeftOut self{kNone, kNone, kNone, kNone, true};
  const Logits logits{a, b, scale, bias, self};
  pairwise_sigmoid_forward(logits, row, out.with(work));
  Array<T> more({pairwise_workspace_size(n, m, d, kind, false, true)});
  pairwise_sigmoid_backward(logits, weight, by_bias, again, {grad_a, grad_b}, out.with(more));
  out.keep(row, again, by_bias, grad_a, grad_b);
  Array<T> panel({pairwise_one_positive_panel_size(n, m, kind)}), grad_positive({n});
  pairwise_one_positive({a, b, scale, kNone, self}, positive, weight, row, grad_positive, {grad_a, grad_b}, panel,
                        out.with(more));
  out.keep(row, grad_positive, grad_a, grad_b);
}

template <typename T>
void prefixes(Results& out, int64_t n, int64_t m, int64_t d, bool symmetric) {
  out.kernel = __func__;
  const int kind = static_cast<int>(dtype_of<T>());
  const Filled<T> a({n, d}, 1), b({m, d}, 2), grad_row({2, n}, 3), grad_col({2, m}, 4);
  Array<int64_t> dims({2});
  dims.data = {d / 2, d};
  Array<T> alpha({2, n}, T(0.6)), beta({2, m}, T(0.8)), row({2, n}), col({2, m}), grad_a({n, d}), grad_b({m, d}),
      grad_alpha({2, n}), grad_beta({2, m});
  dims.view.data = dims.data.data();
  const auto other = [&](const Array<T>& x) { return symmetric ? kNone : x.view; };
  Array<T> work({pairwise_prefixes_workspace_size(n, m, d, 2, kind, symmetric, false)});
  const PrefixLogits logits{a, other(b), dims, alpha, other(beta), kNone};
  pairwise_prefixes_forward(logits, {row, other(col)}, out.with(work));
  Array<T> more({pairwise_prefixes_workspace_size(n, m, d, 2, kind, symmetric, true)});
  pairwise_prefixes_backward(logits, {row, other(col)}, {grad_row, other(grad_col)}, {grad_a, other(grad_b)},
                             {grad_alpha, other(grad_beta)}, out.with(more));
  out.keep(row, col, grad_a, grad_b, grad_alpha, grad_beta);
}

// Students with teachers, and rows without any but with a tilt.
template <typename T>
void soft(Results& out, int64_t n, int64_t k, int64_t d, bool paired, bool unit) {
  out.kernel = __func__;
  const Filled<T> x({n, d}, 1), c({k, d}, 2), y({n, d}, 3), bias({k}, 4), weight({n}, 5);
  Array<T> rows({n}), entropy({n}), column_sum({k}), sums({n, d}), grad({k, d});
  Array<T> work({pairwise_soft_workspace_size({n, k, d, paired ? d : 0, d}, static_cast<int>(dtype_of<T>()))});
  const SoftLogits none{kNone, kNone, kNone}, teacher{y.view, c.view, bias.view};
  pairwise_soft({x.view, c.view, kNone}, paired ? teacher : none, {weight.view, paired ? kNone : bias.view},
                {x.view, c.view}, {false, unit, true, true},
                {rows.view, entropy.view, column_sum.view, sums.view, grad.view}, out.with(work));
  out.keep(rows, entropy, column_sum, sums, grad);
}

template <typename T>
void soft_self(Results& out, int64_t n, int64_t d) {
  out.kernel = __func__;
  const Filled<T> x({n, d}, 1), y({n, d}, 2), weight({n}, 3);
  Array<T> scale({}, T(5)), rows({n}), entropy({n}), grad({n, d});
  Array<T> work({pairwise_soft_self_workspace_size({n, d, d}, static_cast<int>(dtype_of<T>()), true)});
  pairwise_soft_self({x, scale}, {y, scale}, weight, rows, entropy, grad, out.with(work));
  out.keep(rows, entropy, grad);
}

// Queries, keys and negatives with a guide in all directions; a scale with and one without a shift.
template <typename T>
void guided(Results& out, int64_t n, int64_t l, int64_t d) {
  const Filled<T> q({n, d}, 1), k({n, d}, 2), x({l, d}, 3), by_q({n, d / 2}, 4), by_k({n, d / 2}, 5),
      by_x({l, d / 2}, 6), bound({n}, 7), positive({n}, 8), weight({n}, 9);
  Array<T> rows({n}), grad_positive({n}), grad_q({n, d}), grad_k({n, d}), grad_x({l, d});
  Array<T> work({guided_workspace_size({n, l, d, d / 2}, static_cast<int>(dtype_of<T>()), true)});
  for (const double c : {0.5, 200.0}) {
    Array<T> scale({}, T(c));
    out.kernel = c < 1 ? "guided" : "guided_sharp";
    out.units = c < 1 ? 64 : 1024;  // exponentials of logits of 1,000 have as many units as error
    ::sslspec::guided({q, k, x}, {by_q, by_k, by_x}, {scale, bound, positive, weight, 15}, rows, grad_positive,
                      {grad_q, grad_k, grad_x}, out.with(work));
    out.keep(rows, grad_positive, grad_q, grad_k, grad_x);
  }
  out.units = 64;
}

// Classes of four rows.
template <typename T>
void per_positive(Results& out, int64_t n, int64_t d) {
  out.kernel = __func__;
  const Filled<T> u({n, d}, 1), weight({n}, 2);
  Array<int32_t> ids({n});
  Array<int64_t> indptr({n + 1}), indices({3 * n});
  for (int64_t i = 0, e = 0; i < n; ++i) {
    ids.data[size_t(i)] = static_cast<int32_t>(i / 4);
    for (int64_t j = i / 4 * 4; j < i / 4 * 4 + 4; ++j)
      if (j != i) indices.data[size_t(e++)] = j;
    indptr.data[size_t(i + 1)] = e;
  }
  Array<T> scale({}, T(3)), lse({n}), slopes({n}), rows({n}), grad({n, d});
  Array<T> work({pairwise_workspace_size(n, n, d, static_cast<int>(dtype_of<T>()), true, true)});
  ::sslspec::per_positive({u, scale, ids}, {indptr, indices, kNone}, weight, {lse, slopes}, rows, grad, out.with(work));
  out.keep(lse, slopes, rows, grad);
}

template <typename T>
void two_views(Results& out, int64_t n, int64_t d) {
  out.kernel = __func__;
  const int kind = static_cast<int>(dtype_of<T>());
  const Filled<T> z1({n, d}, 1), z2({n, d}, 2), weight({n}, 3);
  Array<T> scale({}, T(5)), bias({}, T(-1)), loss({}), samples({n}), grad_1({n, d}), grad_2({n, d}), grad_scale({}),
      grad_bias({});
  for (const int form : {0, 1, 2, 3})
    for (const bool half : {false, true})
      for (const bool gradient : {false, true}) {
        if (half && !(std::is_same_v<T, float> && cpu::bf16_products())) continue;
        const ViewLoss options{form, form < 2, half, gradient, 0.5};
        Array<T> work({two_views_workspace_size(n, d, kind, options)});
        two_views({{z1, z2}, scale, bias, 1, 0, weight}, options,
                  {loss, samples, {grad_1, grad_2}, grad_scale, grad_bias}, out.with(work));
        out.keep(loss, samples, grad_1, grad_2, grad_scale, grad_bias);
      }
}

template <typename T>
void spectral(Results& out, int64_t n, int64_t d) {
  out.kernel = __func__;
  const Filled<T> z1({n, d}, 1), z2({n, d}, 2);
  Array<double> value({2});
  Array<T> grad_1({n, d}), grad_2({n, d});
  Array<T> work({spectral_contrastive_workspace_size(n, d, static_cast<int>(dtype_of<T>()))});
  for (const bool half : {false, true}) {
    if (half && !(std::is_same_v<T, float> && cpu::bf16_products())) continue;
    spectral_contrastive(z1, z2, {1.0, -1.0, 0.5}, half, value, {grad_1, grad_2}, out.with(work));
    out.keep(value, grad_1, grad_2);
  }
}

template <typename T>
void squares(Results& out, int64_t n, int64_t d, bool cross, bool off_diagonal) {
  out.kernel = __func__;
  const Filled<T> x({n, d}, 1), y({n, d}, 2), shift({2, d}, 3);
  Array<T> scale({2, d}, T(0.9)), grad_x({n, d}), grad_y({n, d});
  const int64_t values = cross ? 1 : 2;
  Array<double> value({values}), diagonal({values, d}, 0.5);
  const bool dual = gram_uses_dual(n, d, off_diagonal);
  const TensorView subtracted = off_diagonal && dual ? diagonal.view : kNone;
  for (const bool half : {false, true}) {
    if (half && !(std::is_same_v<T, float> && cpu::bf16_products())) continue;
    const DType products = half ? DType::bf16 : dtype_of<T>();
    Array<T> work({gram_workspace_size(n, d, static_cast<int>(products), 2, cross, dual)});
    const GramForm form{2.0, cross, off_diagonal, shift, scale, subtracted, kNone, kNone, 0.0, true, half};
    gram(x, y, form, value, {grad_x, grad_y}, out.with(work));
    out.keep(value, grad_x, grad_y);
  }
}

template <typename T>
void normality(Results& out, int64_t views, int64_t n, int64_t d) {
  out.kernel = __func__;
  const int kind = static_cast<int>(dtype_of<T>());
  constexpr int64_t kSlices = 90, kKnots = 5;
  const Filled<T> z({views, n, d}, 1), directions({d, kSlices}, 2);
  const Filled<double> weights({kKnots}, 3), targets({kKnots}, 4), table({2, 6}, 5), offsets({views, n}, 6),
      coefficients({views, 2 * kKnots, kSlices}, 7);
  Array<double> values({views}), sums({views, 2 * kKnots, kSlices}), lengths({views, n}), series({2, n});
  Array<T> grad({views, n, d}), work({sliced_ecf_workspace_size(views, n, d, kSlices, kind)});
  sliced_ecf(z, directions, {weights, targets, 0.2}, 0.5, values, grad, out.with(work));
  out.keep(values, grad);
  sliced_ecf_sums(z, directions, 0.2, sums, out.with(work));
  sliced_ecf_gradient(z, directions, 0.2, coefficients, grad, out.with(work));
  out.keep(sums, grad);

  pairwise_kernel_lengths(z, lengths, out.threads);
  const Filled<double> squared({n}, 8);
  pairwise_kernel_series(squared, table, 4.0 * static_cast<double>(d), series);
  out.keep(lengths, series);
  for (const RadialKind kernel : {RadialKind::series, RadialKind::gaussian, RadialKind::inverse_root}) {
    const double parameter = kernel == RadialKind::series ? 4.0 * static_cast<double>(d) : 0.1;
    const Radial radial{static_cast<int>(kernel), parameter, table, 1.0};
    for (const int64_t count : {n, n / 2}) {  // all rows, or those of one process
      Array<T> part({views, count, d}), pairs({pairwise_kernel_workspace_size(views, n, count, d, kind, true)});
      pairwise_kernel(z, {lengths, offsets, offsets, n - count, count}, radial, 0.5, values, part, out.with(pairs));
      out.keep(values, part);
    }
  }
}

template <typename T>
void rows_and_columns(Results& out, int64_t n, int64_t d) {
  out.kernel = __func__;
  const Filled<T> x({n, d}, 1), y({n, d}, 2), by_mean({d}, 3), by_var({d}, 4), grad_x({n, d}, 5), by_dot({n}, 6);
  Array<T> mean({3, d}), var({3, d}), grad({n, d}), center({d}, T(0.1));
  Array<T> work({moments_workspace_size(n, d, 2)});
  for (const bool product : {false, true}) {
    moments_forward(x, y, product, mean, var, out.with(work));
    out.keep(mean, var);
  }
  moments_backward(x, center, by_mean, by_var, grad, out.threads);
  out.keep(grad);
  Array<T> u({n, d}), v({n, d}), norm_u({n}), norm_v({n}), dot({n}), grad_u({n, d}), grad_v({n, d});
  unit_rows_forward({x, y}, 0.0, {u, v}, {norm_u, norm_v}, dot, out.threads);
  unit_rows_backward({u, v}, {norm_u, norm_v}, 0.0, {grad_x, grad_x}, by_dot, {grad_u, grad_v}, out.threads);
  out.keep(u, v, dot, grad_u, grad_v);
}

template <typename T>
void sparse(Results& out, int64_t n, int64_t d) {
  out.kernel = __func__;
  constexpr int64_t kEntries = 6;  // of a row: the two before it, itself and the three behind
  Array<int64_t> indptr({n + 1});
  Array<int32_t> indices({n * kEntries});
  for (int64_t i = 0; i < n; ++i) {
    int32_t* row = indices.data.data() + i * kEntries;
    for (int64_t e = 0; e < kEntries; ++e) row[e] = static_cast<int32_t>((i + e - 2 + n) % n);
    std::sort(row, row + kEntries);
    indptr.data[i + 1] = (i + 1) * kEntries;
  }
  const Filled<double> values({n * kEntries}, 1);
  const Filled<T> x({n, d}, 2), y({n, d}, 3), w({n, d}, 4), u({n}, 5), v({d}, 6), mat({d, d}, 7);
  Array<T> y_out({n, d}, T(1)), dots({n}), distances({n}), each({n * kEntries}), cov({d, d}), half({d, d});
  const CsrView a{indptr, indices, values};
  spmm(a, x, kNone, {u, u, false}, {0.5, 2.0, 0.3, 0.1, w, u}, y_out, out.threads);
  out.keep(y_out);
  edges(a, x, y, dots, false, out.threads);
  edges(a, x, y, distances, true, out.threads);
  edge_values(a, x, y, each, out.threads);
  const int kind = static_cast<int>(dtype_of<T>());
  Array<T> work({graph_cov_workspace_size(n, d, d, kind)}), more({graph_cov_apply_workspace_size(d, d, kind)});
  graph_cov(a, x, y, cov, out.with(work));
  graph_cov(a, x, kNone, half, out.with(work));
  graph_cov_apply(a, y, mat, u, v, y_out, out.with(more));
  out.keep(dots, distances, each, cov, half, y_out);
}

template <typename T>
void bases(Results& out, int64_t n, int64_t p, int64_t q) {
  out.kernel = __func__;
  const Filled<T> a({n, p}, 1), b({n, q}, 2), w({n}, 3), c({p, q}, 4), own({q, q}, 5);
  Array<double> g({p + q, q}), work({basis_gram_workspace_size(n, p + q, q)});
  for (const bool exact : {false, true}) {
    basis_gram({a, b}, b, w, g, exact, out.with(work));
    out.keep(g);
  }
  Array<T> y({n, q});
  basis_random(y, 0, 7, out.threads);
  out.keep(y);
  basis_combine(y, {a, y}, {c, own}, 0.5, out.threads);
  out.keep(y);
}

template <typename T>
void every_kernel(Results& out) {
  out.digits = std::numeric_limits<T>::digits;
  softmax<T>(out, 700, 700, 20, true, false);
  softmax<T>(out, 450, 450, 20, true, true);
  softmax<T>(out, 450, 700, 20, false, true);
  softmax<T>(out, 3300, 3300, 2, true, false);  // as many blocks as are paired by groups
  sigmoid_and_rows<T>(out, 450, 500, 20);
  prefixes<T>(out, 500, 500, 16, true);
  prefixes<T>(out, 450, 500, 16, false);
  for (const bool unit : {false, true}) {
    soft<T>(out, 250, 1500, 20, true, unit);
    soft<T>(out, 250, 1500, 20, false, unit);
  }
  soft_self<T>(out, 700, 40);
  guided<T>(out, 330, 130, 20);
  per_positive<T>(out, 440, 20);
  two_views<T>(out, 330, 20);
  spectral<T>(out, 900, 40);
  for (const bool cross : {false, true})
    for (const bool off_diagonal : {false, true}) {
      squares<T>(out, 900, 40, cross, off_diagonal);
      squares<T>(out, 40, 900, cross, off_diagonal);
      squares<T>(out, 450, 420, cross, off_diagonal);
    }
  normality<T>(out, 2, 450, 20);
  rows_and_columns<T>(out, 3000, 20);
  sparse<T>(out, 3000, 20);
  bases<T>(out, 9000, 3, 5);
}

std::vector<Result> every_kernel(int threads) {
  Results out{threads};
  every_kernel<float>(out);
  every_kernel<double>(out);
  pairs_of_bf16(out, 450, 500, 40);
  return out.arrays;
}

}  // namespace
}  // namespace sslspec

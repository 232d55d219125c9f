// Sums of a radial function over all pairs of rows of each view, and their gradient, in one visit of every pair:
//   value_b = (1 / n) sum_ij (k(|z_i - z_j|^2) - o_i - o_j)
//   grad_i  = factor * [ (4 / n) sum_j k'(|z_i - z_j|^2) (z_i - z_j) - 4 s_i z_i ]
// with i over rows first ... first + count, all of them or those of one process, and j over all n rows;
// o are the offsets of the rows and s their derivatives in |z_i|^2. The offsets are subtracted pair by pair, because
// the sums nearly cancel.
//
// Radial functions k(r), r >= 0 the squared distance:
//   series         sum_m c_m T_m(1 - 2 r / parameter) for r <= parameter; table: [c of k, c of k']
//   gaussian       exp(-parameter r)
//   inverse_root   (parameter + r)^(-1/2)
#pragma once
#include "normality/check.h"
#include "normality/radial_kind.h"

namespace sslspec {

// Elements of the workspace, in the dtype of the rows.
int64_t pairwise_kernel_workspace_size(int64_t views, int64_t n, int64_t count, int64_t d, int dtype, bool backward);

// Squared lengths of the rows of z [views, n, d], in double: what the offsets are functions of.
void pairwise_kernel_lengths(TensorView z, TensorView out, int threads);

// values_ij = sum_m table_im T_m(1 - 2 r_j / top): i = 0 ... of `table` rows; all double.
void pairwise_kernel_series(TensorView r, TensorView table, double top, TensorView values);

struct Radial {
  int kind;          // RadialKind
  double parameter;  // as above
  TensorView table;  // [2, terms] double; series only
  double at_zero;    // k(0)
  static constexpr auto fields() {
    return std::make_tuple(&Radial::kind, &Radial::parameter, &Radial::table, &Radial::at_zero);
  }

  void check(const char* op, int device) const {
    SSLSPEC_CHECK(0 <= kind && kind <= 2, op, ": kind must be 0, 1 or 2, got ", kind);
    if (static_cast<RadialKind>(kind) != RadialKind::series) return;
    SSLSPEC_CHECK(table.ndim == 2 && table.shape[0] == 2 && table.shape[1] >= 1, op, ": table must be (2, terms), got ",
                  shape_text(table));
    check_contiguous(op, "table", table, 2, table.shape, DType::f64, device);
  }
};

struct KernelRows {
  TensorView lengths;    // [views, n] double
  TensorView offsets;    // [views, n] double
  TensorView slopes;     // [views, n] double
  int64_t first, count;  // the rows whose pairs are taken
  static constexpr auto fields() {
    return std::make_tuple(&KernelRows::lengths, &KernelRows::offsets, &KernelRows::slopes, &KernelRows::first,
                           &KernelRows::count);
  }
};

void pairwise_kernel(TensorView z,  // [views, n, d]
                     const KernelRows& rows, const Radial& radial, double factor,
                     TensorView values,  // [views] double, out
                     TensorView grad,    // [views, count, d] out, or absent
                     const Run& run);

}  // namespace sslspec

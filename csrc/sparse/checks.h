// Shape checks of the dense operands of spmm and edges, the same on every device.
#pragma once
#include "sparse/spmm.h"

namespace sslspec {

// The two ends of `edges`: x [n, d] and y [any, d].
inline void check_ends(const char* op, int64_t n, const TensorView& x, const TensorView& y, int device) {
  SSLSPEC_CHECK(x.ndim == 2 && y.ndim == 2, op, ": x and y must be matrices, got ", shape_text(x), " and ",
                shape_text(y));
  check_matrix(op, "x", x, n, x.shape[1], x.dtype, device);
  check_matrix(op, "y", y, y.shape[0], x.shape[1], x.dtype, device);
}

// The operands of `spmm`: x [m, b], y [n, b], and those that may be absent.
inline void check_product(const char* op, int64_t n, const TensorView& x, const TensorView& own, const Scales& scales,
                          const Combination& combination, const TensorView& y, int device) {
  SSLSPEC_CHECK(x.ndim == 2, op, ": x must be (m, b), got ", shape_text(x));
  const int64_t m = x.shape[0], b = x.shape[1];
  const TensorView &w = combination.w, &diagonal = combination.diagonal;
  check_matrix(op, "x", x, m, b, x.dtype, device);
  check_matrix(op, "y", y, n, b, x.dtype, device);
  if (own.present()) check_matrix(op, "own", own, n, b, x.dtype, device);
  if (w.present()) check_matrix(op, "w", w, n, b, x.dtype, device);
  if (diagonal.present()) check_vector(op, "diagonal", diagonal, n, x.dtype, device);
  if (scales.row.present()) check_vector(op, "row_scale", scales.row, n, x.dtype, device);
  if (scales.col.present()) check_vector(op, "col_scale", scales.col, m, x.dtype, device);
  SSLSPEC_CHECK(!scales.add || (scales.row.present() && scales.col.present()), op,
                ": add_scales needs row_scale and col_scale");
}

}  // namespace sslspec

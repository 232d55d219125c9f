// Primitive `spmm`: products of a sparse matrix A (n x m, compressed rows) and a tall matrix.
//   Y = alpha * r (A (c X)) + beta * Y + (gamma + delta * diagonal) W        r, c: optional row and column factors
//   (with W = X one step of a three-term recurrence in diag(s) A diag(s) or in a Laplacian, diagonal = degrees)
//   with `own`: sums of differences, (A X)_i becomes sum_j a_ij (own_i - x_j)
//   with `add_scales`: the entry a_ij counts a_ij (r_i + c_j), the form of gradients of symmetric edge sums
// beta == 0 never reads Y.
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

void spmm(TensorView indptr,     // [n + 1] int64
          TensorView indices,    // [nnz] int32 or int64
          TensorView values,     // [nnz] float32 or float64, or absent: ones
          TensorView x,          // [m, b]
          TensorView own,        // [n, b] or absent
          TensorView row_scale,  // [n] or absent
          TensorView col_scale,  // [m] or absent
          TensorView w,          // [n, b] or absent
          TensorView diagonal,   // [n] or absent
          TensorView y,          // [n, b] in and out
          bool add_scales, double alpha, double beta, double gamma, double delta, int threads);

}  // namespace sslspec

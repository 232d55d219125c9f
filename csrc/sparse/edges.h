// Primitive `edges`: per-row sums over the entries of a sparse matrix A (n x m, compressed rows) that see both ends.
//   out_i = sum_j a_ij <x_i, y_j>            or, squared,   out_i = sum_j a_ij |x_i - y_j|^2
// A Y is never stored. `edge_values` (a sampled dense-dense product, SDDMM) keeps one number per entry e = (i, j):
//   out_e = <x_i, y_j>
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

void edges(TensorView indptr,   // [n + 1] int64
           TensorView indices,  // [nnz] int32 or int64
           TensorView values,   // [nnz] float32 or float64, or absent: ones
           TensorView x,        // [n, d]
           TensorView y,        // [m, d]
           TensorView out,      // [n] out
           bool squared, int threads);

void edge_values(TensorView indptr, TensorView indices, TensorView x, TensorView y,
                 TensorView out,  // [nnz] out
                 int threads);

}  // namespace sslspec

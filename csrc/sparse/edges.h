// Primitive `edges`: per-row sums over the entries of a sparse matrix A (n x m, compressed rows) that see both ends.
//   out_i = sum_j a_ij <x_i, y_j>            or, squared,   out_i = sum_j a_ij |x_i - y_j|^2
// A Y is never stored. `edge_values` (a sampled dense-dense product, SDDMM) keeps one number per entry e = (i, j):
//   out_e = <x_i, y_j>
#pragma once
#include "sparse/csr.h"

namespace sslspec {

void edges(const CsrView& a,
           TensorView x,    // [n, d]
           TensorView y,    // [m, d]
           TensorView out,  // [n] out
           bool squared, int threads);

void edge_values(const CsrView& a,  // without values
                 TensorView x, TensorView y,
                 TensorView out,  // [nnz] out
                 int threads);

}  // namespace sslspec

// Primitive `graph_cov`: C = X^T A Y = sum_ij a_ij x_i y_j^T for a sparse A (n x m, compressed rows), and the product
// (A Y) M + u v^T that its gradient needs: dX = (A Y) (dC)^T, dY = (A^T X) dC, for symmetric A with Y = X
// dX = (A X) (dC + dC^T), and the rank-one term where A is centred. A Y is never stored.
#pragma once
#include "sparse/csr.h"

namespace sslspec {

int64_t graph_cov_workspace_size(int64_t n, int64_t d, int64_t e, int dtype);

void graph_cov(const CsrView& a,
               TensorView x,    // [n, d]
               TensorView y,    // [m, e], or absent: A is symmetric and y = x; only entries j >= i are read
               TensorView out,  // [d, e] out
               const Run& run);

int64_t graph_cov_apply_workspace_size(int64_t e, int64_t d, int dtype);

void graph_cov_apply(const CsrView& a,
                     TensorView y,    // [m, e]
                     TensorView mat,  // [e, d] M
                     TensorView u,    // [n] contiguous, or absent
                     TensorView v,    // [d] contiguous; present when u is
                     TensorView out,  // [n, d] out: (A Y) M + u v^T
                     const Run& run);

}  // namespace sslspec

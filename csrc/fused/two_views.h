// Two views of n samples: the NT-Xent loss of every anchor and its gradient, around the symmetric part of `pairwise`.
//   u = z / max(|z|, eps) over the 2n stacked rows, p the other view of a row, c the scale
//   negatives_i = log sum_{k not in {i, p(i)}} exp(c u_i . u_k),   rows_i = log(1 + exp(negatives_i - c u_i . u_p(i)))
// Backward, with w_i = grad_i sigmoid(negatives_i - c u_i . u_p(i)) and W the weights of `pairwise` for the gradient w:
//   v = W u - (w + w_p) u_p,   grad_scale = <u, v> / 2,   grad_z = c (v - u (u . v)) / max(|z|, eps)
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

// half: the unit rows are rounded to bfloat16 for the products of all pairs (`bf16_products`, float32 only).
int64_t two_views_workspace_size(int64_t n, int64_t d, int dtype, bool half, bool backward);

// What the forward pass leaves for the backward pass.
struct ViewRows {
  TensorView u;          // [2, n, d]
  TensorView norm;       // [2, n]
  TensorView negatives;  // [2, n]
  TensorView kept;       // as in pairwise/pairwise.h
  bool half = false;
  static constexpr auto fields() {
    return std::make_tuple(&ViewRows::u, &ViewRows::norm, &ViewRows::negatives, &ViewRows::kept, &ViewRows::half);
  }
};

void two_views_forward(const TensorPair& z,   // [n, d] each
                       TensorView scale,      // []
                       const ViewRows& left,  // out
                       TensorView rows,       // [2, n] out
                       const Run& run);

void two_views_backward(TensorView scale, const ViewRows& left,
                        TensorView grad,        // [2, n]
                        TensorView grad_z,      // [2, n, d] out
                        TensorView grad_scale,  // [] out
                        const Run& run);

}  // namespace sslspec

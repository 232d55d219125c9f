// Primitive `pairwise`.
//
// Softmax part. With logits s_ij = scale_i a_i . b_j over the pairs that are not left out
// (i == j, equal ids, or a CSR pattern):
//   row_lse_i = log sum_j exp(s_ij),   col_lse_j = log sum_i exp(s_ij)
//   W_ij = grad_row_i exp(s_ij - row_lse_i) + grad_col_j exp(s_ij - col_lse_j)
//   grad_a_i = sum_j W_ij b_j  (without the factor scale_i),   grad_b_j = sum_i W_ij scale_i a_i
// Without b the case is symmetric (b = a, scale a scalar): W_ij = (grad_i / sum_i + grad_j / sum_j) exp(s_ij) and
// grad_a_i = sum_j W_ij a_j.
//
// Rows with one positive logit that is not among those pairs, and the gradient of sum_i weight_i rows_i with them:
//   rows_i = log(1 + exp(row_lse_i - positive_i)),   pull_i = weight_i sigmoid(row_lse_i - positive_i)
//   W_ij = pull_i exp(s_ij - row_lse_i),   grad_a and grad_b as above
//
// Sigmoid part, over all pairs or those with i != j. row_sum_i = sum_j softplus(s_ij + bias),
// W_ij = grad_row_i sigmoid(s_ij + bias), grad_a and grad_b as above, grad_bias_i = sum_j W_ij.
//
// Softmax part, rows in bfloat16: statistics and gradients are float32, there is a b, scale is a scalar, and
// grad_b_j = sum_i W_ij a_i.
//
// The N x M matrix is never stored.
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

int64_t pairwise_workspace_size(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool backward);

void pairwise_forward(TensorView a,             // [n, d]
                      TensorView b,             // [m, d], or absent: symmetric
                      TensorView scale,         // [] or [n]
                      TensorView ids_a,         // [n] int32 or absent
                      TensorView ids_b,         // [m] int32 or absent
                      TensorView skip_indptr,   // [n + 1] int64 or absent
                      TensorView skip_indices,  // [nnz] int64 or absent
                      bool skip_self,
                      TensorView row_lse,  // [n] out
                      TensorView col_lse,  // [m] out, or absent
                      TensorView workspace, int threads);

void pairwise_backward(TensorView a, TensorView b, TensorView scale, TensorView ids_a, TensorView ids_b,
                       TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                       TensorView row_lse,   // [n]
                       TensorView col_lse,   // [m] or absent
                       TensorView grad_row,  // [n]
                       TensorView grad_col,  // [m] or absent
                       TensorView grad_a,    // [n, d] out
                       TensorView grad_b,    // [m, d] out, or absent; unused when symmetric
                       TensorView workspace, int threads);

void pairwise_sigmoid_forward(TensorView a, TensorView b, TensorView scale,
                              TensorView bias,  // []
                              bool skip_self,
                              TensorView row_sum,  // [n] out
                              TensorView workspace, int threads);

void pairwise_sigmoid_backward(TensorView a, TensorView b, TensorView scale, TensorView bias, bool skip_self,
                               TensorView grad_row,   // [n]
                               TensorView grad_bias,  // [n] out
                               TensorView row_sum,    // [n] out, or absent: those of the forward pass as well
                               TensorView grad_a,     // [n, d] out
                               TensorView grad_b,     // [m, d] out, or absent
                               TensorView workspace, int threads);

int64_t pairwise_rows_panel_size(int64_t m, int dtype);

void pairwise_rows(TensorView a, TensorView b, TensorView scale, bool skip_self,
                   TensorView positive,   // [n]
                   TensorView weight,     // [n]
                   TensorView rows,       // [n] out
                   TensorView pull,       // [n] out: minus the gradient with respect to positive
                   TensorView grad_a,     // [n, d] out
                   TensorView grad_b,     // [m, d] out, or absent
                   TensorView workspace,  // of the backward pass
                   TensorView panel, int threads);

}  // namespace sslspec

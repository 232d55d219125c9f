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
//   rows_i = log(1 + exp(row_lse_i - positive_i)),   grad_positive_i = -weight_i sigmoid(row_lse_i - positive_i)
//   W_ij = -grad_positive_i exp(s_ij - row_lse_i),   grad_a and grad_b as above
//
// Sigmoid part, over all pairs or those with i != j. row_sum_i = sum_j softplus(s_ij + bias),
// W_ij = grad_row_i sigmoid(s_ij + bias), grad_a and grad_b as above, grad_bias_i = sum_j W_ij.
//
// Rows in bfloat16: statistics and gradients are float32, grad_b_j = sum_i W_ij a_i, and scale is a scalar in the softmax
// part.
//
// The N x M matrix is never stored.
#pragma once
#include "pairwise/logits.h"

namespace sslspec {

int64_t pairwise_workspace_size(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool backward);

// How many tasks of a pass a CPU can work on at the same time; columns: with column statistics, or grad_b.
int64_t pairwise_tasks(int64_t n, int64_t m, bool symmetric, bool columns, int threads);

void pairwise_forward(const Logits& logits,
                      const TensorPair& lse,  // row_lse [n] out; col_lse [m] out, or absent
                      TensorView kept,        // [1] int64 out, or absent: number of the products kept (simd/kept.h)
                      const Run& run);

void pairwise_backward(const Logits& logits, const TensorPair& lse,
                       const TensorPair& grad_lse,  // grad_row [n], grad_col [m] or absent
                       const TensorPair& grads,     // grad_a [n, d] out; grad_b [m, d] out, or absent
                       TensorView kept,             // of the forward pass, or absent
                       const Run& run);

void pairwise_sigmoid_forward(const Logits& logits,
                              TensorView row_sum,  // [n] out
                              const Run& run);

void pairwise_sigmoid_backward(const Logits& logits,
                               TensorView grad_row,      // [n]
                               TensorView grad_bias,     // [n] out
                               TensorView row_sum,       // [n] out, or absent: those of the forward pass as well
                               const TensorPair& grads,  // as in pairwise_backward
                               const Run& run);

int64_t pairwise_one_positive_panel_size(int64_t n, int64_t m, int dtype);

void pairwise_one_positive(const Logits& logits,
                           TensorView positive,       // [n]
                           TensorView weight,         // [n]
                           TensorView rows,           // [n] out
                           TensorView grad_positive,  // [n] out
                           const TensorPair& grads,   // as in pairwise_backward
                           TensorView panel,          // empty for rows in bfloat16
                           const Run& run);           // workspace: that of the backward pass

}  // namespace sslspec

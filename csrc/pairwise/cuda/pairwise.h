// Checked entry points of the CUDA side of `pairwise`: TensorViews in, launches of kernels.h out. `bias` present
// means the sigmoid part (row = row sums of softplus, no columns, no statistics in the backward pass). Arrays other
// than a, b and the gradients are float32, or float64 when a is. `fast`: one tf32 product for float32 inputs.
#pragma once
#include "common/tensor_view.h"

namespace sslspec::cuda {

enum Pass { kForward = 0, kChained = 1, kMatrix = 2 };

// Elements of the workspace, of the dtype of the statistics.
int64_t pairwise_op_workspace(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool columns, int pass);

// May pairwise_op_backward be used? Otherwise the weights are made chunk by chunk (pairwise_op_weights).
bool pairwise_op_chained(int64_t d, int dtype, int device);

void pairwise_op_forward(TensorView a, TensorView b, TensorView scale, TensorView bias, TensorView ids_a,
                         TensorView ids_b, TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                         TensorView row,  // [n] out
                         TensorView col,  // [m] out or absent
                         TensorView workspace, bool fast, int64_t stream);

// grad_a includes the factor scale_i. The gradients of bfloat16 rows may be bfloat16 or float32.
void pairwise_op_backward(TensorView a, TensorView b, TensorView scale, TensorView bias, TensorView ids_a,
                          TensorView ids_b, TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                          TensorView row_lse, TensorView col_lse, TensorView grad_row, TensorView grad_col,
                          TensorView grad_a, TensorView grad_b,
                          TensorView row_dot,    // [n] out: a_i . sum_j W_ij b_j
                          TensorView row_total,  // [n] out or absent: sum_j W_ij (sigmoid)
                          TensorView workspace, bool fast, int64_t stream);

// Rows row0 .. of W as a matrix [rows, m] of the type of the rows, or for float32 rows as three bfloat16 matrices one
// below the other, [3 rows, m], whose sum is W; row0 == 0 prepares the workspace for the chunks that follow.
void pairwise_op_weights(TensorView a, TensorView b, TensorView scale, TensorView bias, TensorView ids_a,
                         TensorView ids_b, TensorView skip_indptr, TensorView skip_indices, bool skip_self,
                         TensorView row_lse, TensorView col_lse, TensorView grad_row, TensorView grad_col, int64_t row0,
                         TensorView weights, TensorView workspace, bool fast, int64_t stream);

}  // namespace sslspec::cuda

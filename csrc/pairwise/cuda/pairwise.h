// Checked entry points of the CUDA side of `pairwise`: TensorViews in, launches of kernels.h out. With logits.bias it is
// the sigmoid part (row sums of softplus, no columns, no statistics in the backward pass). Arrays other than a, b and
// the gradients are float32, or float64 when a is. `fast`: one tf32 product for float32 rows.
#pragma once
#include "pairwise/logits.h"

namespace sslspec::cuda {

enum Pass { kForward = 0, kChained = 1, kMatrix = 2 };

// Elements of the workspace, of the dtype of the statistics.
int64_t pairwise_workspace_size(int64_t n, int64_t m, int64_t d, int dtype, bool symmetric, bool columns, int pass);

// May pairwise_backward be used? Otherwise the weights are written chunk by chunk (pairwise_weight_rows).
bool pairwise_is_chained(int64_t d, int dtype, int device);

void pairwise_forward(const Logits& logits,
                      const TensorPair& statistics,  // of the rows [n] out, of the columns [m] out or absent
                      const Run& run, bool fast);

// grad_a includes the factor scale_i. The gradients of bfloat16 rows may be bfloat16 or float32.
void pairwise_backward(const Logits& logits, const TensorPair& lse, const TensorPair& grad_lse, const TensorPair& grads,
                       TensorView row_dot,    // [n] out: a_i . sum_j W_ij b_j
                       TensorView row_total,  // [n] out or absent: sum_j W_ij (sigmoid)
                       const Run& run, bool fast);

// Rows row0 .. of W as a matrix [rows, m] of the type of the rows, or for float32 rows as three bfloat16 matrices one
// below the other, [3 rows, m], whose sum is W; row0 == 0 prepares the workspace for the chunks that follow.
void pairwise_weight_rows(const Logits& logits, const TensorPair& lse, const TensorPair& grad_lse, int64_t row0,
                          TensorView weights, const Run& run, bool fast);

}  // namespace sslspec::cuda

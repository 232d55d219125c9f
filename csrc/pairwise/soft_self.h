// Soft cross-entropy among the rows of a batch: a row is compared with all others, and its target is another such row.
//
// With logits s_ij = c x_i . x_j of the students and t_ij = f y_i . y_j of the teachers over j != i, their row
// statistics lse and softmaxes p, q, and a weight g_i for each row,
//   row_i = g_i sum_j q_ij (lse_i - s_ij),   entropy_i = -sum_j q_ij log q_ij,   W_ij = g_i (p_ij - q_ij),
//   grad_i = sum_j (W_ij + W_ji) x_j.
// A row without any other has row_i = 0 and no gradient. The n x n matrices are stored as far as they are kept between
// the two passes of a call (simd/kept.h).
#pragma once
#include <array>

#include "common/tensor_view.h"

namespace sslspec {

// sizes: {n, d of the students, d of the teachers}; dtype: that of the rows
int64_t pairwise_soft_self_workspace_size(const std::array<int64_t, 3>& sizes, int dtype, bool backward);

// Rows in bfloat16 where the processor multiplies them (`bf16_products`), all else in float.
void pairwise_soft_self(const TensorPair& student,                             // x [n, d], c []
                        const TensorPair& teacher,                             // y [n, e], f []
                        TensorView weight,                                     // [n]
                        TensorView rows, TensorView entropy, TensorView grad,  // [n], [n], [n, d] or absent
                        const Run& run);

}  // namespace sslspec

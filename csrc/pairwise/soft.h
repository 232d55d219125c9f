// Soft cross-entropy over k columns: rows of a softmax beside target rows of another one.
//
// With logits s_ij = x_i . c_j (+ bias_j) of the students and t_ij of the teachers, lse and p, q their row statistics
// and softmax, and a weight g_i for each row,
//   with teachers:     row_i = g_i sum_j q_ij (lse_i - s_ij),   W_ij = g_i (p_ij - q_ij)
//   without:           row_i = lse_i,                           W_ij = g_i p_ij
//   with a tilt f_j:   row_i = lse_i,                           W_ij = g_i p_ij (f_j - sum_k p_ik f_k)
// and
//   sums_i = sum_j W_ij right_j,   grad_j += sum_i W_ij left_i,   column_sum_j = sum_i g_i p_ij,
//   entropy_i = -sum_j q_ij log q_ij of the teachers, or of p without them.
// With unit columns, c_j and right_j are those that are given over max(|c_j|, 1e-12), and grad is that of the given
// right_j. No scaled copy of the columns is made.
// Row i of the teachers is the target of row i. Columns that are left out have p = q = 0; a row without any other has
// row_i = 0 (-inf without teachers) and no gradient. The n x k matrices are never stored.
#pragma once
#include <array>

#include "common/tensor_view.h"

namespace sslspec {

// x [n, d], c [k, d], bias [k] or absent
using SoftLogits = std::array<TensorView, 3>;
// rows [n], entropy [n] or absent, column_sum [k] or absent, sums [n, e] or absent, grad [k, e] or absent
using SoftResults = std::array<TensorView, 5>;
// skip_self: row i leaves out column i; unit: columns of unit length; first, last: of the visits that add to one grad,
// which starts at zero, and is that of unit columns until the last
using SoftOptions = std::array<bool, 4>;

// sizes: {n, k, d of the students, d of the teachers or 0, e}
int64_t pairwise_soft_workspace_size(const std::array<int64_t, 5>& sizes, int dtype);

void pairwise_soft(const SoftLogits& student,
                   const SoftLogits& teacher,                 // absent, or as many rows and columns as the students
                   const std::array<TensorView, 2>& own,      // weight [n]; tilt [k] or absent
                   const std::array<TensorView, 2>& product,  // left [n, e], right [k, e]
                   const SoftOptions& options, const SoftResults& results, const Run& run);

}  // namespace sslspec

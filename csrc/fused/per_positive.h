// A softmax for every positive pair of a graph: its denominator holds that positive and all rows that are no positives.
//
// With s_ij = c u_i . u_j and a_i = log sum e^s_ik over the rows k of other classes than i's,
//   rows_i = sum_j g_ij log(1 + e^(a_i - s_ij)),   L = sum_i weight_i rows_i,
//   v_ij = weight_i g_ij sigmoid(a_i - s_ij),      W_ij = (sum_j v_ij) e^(s_ij - a_i),
//   grad_i = c sum_k (W_ik + W_ki) u_k - c sum_j (v_ij + v_ji) u_j,
// over the entries g_ij of a symmetric matrix without a diagonal. Row i without other classes has the loss 0.
#pragma once
#include "sparse/csr.h"

namespace sslspec {

struct ClassedRows {
  TensorView u, scale, ids;  // [n, d], [], [n] int32: equal in a class
  static constexpr auto fields() { return std::make_tuple(&ClassedRows::u, &ClassedRows::scale, &ClassedRows::ids); }
};

// Scratch memory of a call: pairwise_workspace_size(n, n, d, dtype, true, backward) values.
void per_positive(const ClassedRows& x, const CsrView& positives,
                  TensorView weight,                 // [n]
                  const TensorPair& lse_and_slopes,  // a [n] out; sum_j v_ij [n] out
                  TensorView rows,                   // [n] out
                  TensorView grad,                   // [n, d] out, or absent
                  const Run& run);

}  // namespace sslspec

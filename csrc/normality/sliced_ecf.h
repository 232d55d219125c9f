// Empirical characteristic functions of the rows of each view along many directions, compared with a given one at
// equally spaced points t_k = k step, k = 1 ... knots. With p_is = z_i . a_s, S directions,
//   C_ks = (1 / n) sum_i cos(t_k p_is),   Q_ks = (1 / n) sum_i sin(t_k p_is)
//   value_b = (n / S) sum_s sum_k w_k [(C_ks - c_k)^2 + Q_ks^2]
//   grad_i  = factor (2 / S) sum_s a_s sum_k w_k t_k [Q_ks cos(t_k p_is) - (C_ks - c_k) sin(t_k p_is)]
// Nothing of size (n, S, knots) exists, and of the projections only as many columns as fit in a fixed budget.
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

// Elements of the workspace, in the dtype of the rows.
int64_t sliced_ecf_workspace_size(int64_t views, int64_t n, int64_t d, int64_t directions, int dtype);

struct Quadrature {
  TensorView weights;  // [knots] double: w_k
  TensorView targets;  // [knots] double: c_k
  double step;
  static constexpr auto fields() {
    return std::make_tuple(&Quadrature::weights, &Quadrature::targets, &Quadrature::step);
  }
};

void sliced_ecf(TensorView z,           // [views, n, d]
                TensorView directions,  // [d, S], dtype of z
                const Quadrature& quadrature, double factor,
                TensorView values,  // [views] double, out
                TensorView grad,    // [views, n, d] out, or absent
                const Run& run);

// The two visits that rows on several processes need. Sums over the rows, which add up over processes:
//   sums[b][k - 1][s] = sum_i cos(t_k p_is),   sums[b][knots + k - 1][s] = sum_i sin(t_k p_is)
void sliced_ecf_sums(TensorView z, TensorView directions, double step,
                     TensorView sums,  // [views, 2 knots, S] double, out
                     const Run& run);

//   grad_i = sum_s a_s sum_k [u_ks cos(t_k p_is) + v_ks sin(t_k p_is)]
void sliced_ecf_gradient(TensorView z, TensorView directions, double step,
                         TensorView coefficients,  // [views, 2 knots, S] double: u and then v
                         TensorView grad,          // [views, n, d] out
                         const Run& run);

}  // namespace sslspec

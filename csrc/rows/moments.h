// Primitive `moments`: for every column, over n rows,
//   mean_k = mean_i x_ik,   m2_k = sum_i (x_ik - mean_k)^2
// for x, or for x, y and x - y in one pass (m2_xy = (m2_x + m2_y - m2_{x-y}) / 2 is the covariance sum).
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

int64_t moments_workspace_size(int64_t n, int64_t d, int operands);  // in elements of x's dtype

void moments_forward(TensorView x,     // [n, d], n >= 1
                     TensorView y,     // [n, d] or absent
                     TensorView mean,  // [1 or 3, d] out
                     TensorView m2,    // [1 or 3, d] out
                     TensorView workspace, int threads);

// grad_x = grad_mean / n + (2 / n) grad_var (x - mean), var = m2 / n
void moments_backward(TensorView x, TensorView mean, TensorView grad_mean, TensorView grad_var, TensorView grad_x,
                      int threads);

}  // namespace sslspec

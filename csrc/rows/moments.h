// Primitive `moments`: for every column, over n rows,
//   mean_k = mean_i x_ik,   var_k = mean_i (x_ik - mean_k)^2
// for x, or in one pass for x, y and either x - y or (product) the pairs: mean 0, var the covariance
// mean_i (x_ik - mean^x_k) (y_ik - mean^y_k).
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

int64_t moments_workspace_size(int64_t n, int64_t d, int operands);  // in elements of mean

void moments_forward(TensorView x,     // [n, d], n >= 1; also bfloat16, with all else in float
                     TensorView y,     // [n, d] or absent
                     bool product,     // needs y
                     TensorView mean,  // [1 or 3, d] out
                     TensorView var,   // [1 or 3, d] out
                     const Run& run);

// grad_x = grad_mean / n + (2 / n) grad_var (x - mean)
void moments_backward(TensorView x, TensorView mean, TensorView grad_mean, TensorView grad_var, TensorView grad_x,
                      int threads);

}  // namespace sslspec

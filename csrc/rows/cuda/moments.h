// CUDA entry points of `moments`; see csrc/rows/moments.h for the mathematics.
#pragma once
#include "common/tensor_view.h"

namespace sslspec::cuda {

int64_t moments_workspace_size(int64_t n, int64_t d, int operands);  // elements of float, or double for x of double

// x, y of any float type; mean and var in float, or double for double
void moments_forward(TensorView x, TensorView y, bool product, TensorView mean, TensorView var, const Run& run);

void moments_backward(TensorView x, TensorView mean, TensorView grad_mean, TensorView grad_var, TensorView grad_x,
                      int64_t stream);

}  // namespace sslspec::cuda

// The sigmoid loss of two views (SigLIP) on the GPU, value and gradients in one visit of the pairs:
//   L = weight sum_i f_i (softplus(-s_ii) + sum_{j != i} softplus(s_ij)),  s_ij = scale x_i . y_j + bias,
// with W_ij = f_i (sigmoid(s_ij) - [i = j]): grad_x = weight scale W y, grad_y = weight scale W' x, grad_scale = weight
// sum_ij W_ij x_i . y_j, grad_bias = weight sum_ij W_ij.
//
// Forward: chunks of rows of W with sums over their pairs; after each, the caller's library multiplies W y and W' x;
// then the sums become numbers. Backward: one pass over the products.
#pragma once
#include "common/tensor_view.h"

namespace sslspec::cuda {

struct SigmoidInputs {
  TensorView x, y;         // [n, d] bfloat16 or float32, rows at multiples of 16 bytes
  TensorView scale, bias;  // [] float32, or absent: the numbers
  double number, offset;
  TensorView row_factor;  // [n] float32, or absent: 1
  static constexpr auto fields() {
    using I = SigmoidInputs;
    return std::make_tuple(&I::x, &I::y, &I::scale, &I::bias, &I::number, &I::offset, &I::row_factor);
  }
};

// Floats that a chunk of `rows` rows against m writes to `sums`.
int64_t sigmoid_loss_sums_size(int64_t rows, int64_t m);

// Rows row0.. of W, a multiple of 128 of them or the last; pieces as in pairwise_weight_rows.
void sigmoid_loss_weights(const SigmoidInputs& inputs, int64_t row0, TensorView weights, TensorView sums, bool fast,
                          int64_t stream);

// loss [] and its gradients of scale and bias, numbers [2], out.
void sigmoid_loss_finish(TensorView sums, double weight, TensorView loss, TensorView numbers, int64_t stream);

// grads = factor weight scale products, in their own dtype; grad_numbers [2] out or absent: factor numbers.
void sigmoid_loss_gradient(const TensorPair& products,  // [n, width] float32; the second may be absent
                           TensorView numbers, TensorView scale, double number,  // [], or absent: weight times scale
                           TensorView factor,                                    // [] float32
                           const TensorPair& grads,                              // [n, d] out, d <= width
                           TensorView grad_numbers, int64_t stream);

}  // namespace sslspec::cuda

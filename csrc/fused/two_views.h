// Two views of n samples: a loss and its gradient in one call, around `pairwise`. With p_i = c x_i . y_i the logit of a
// pair, x and y the rows of z1 and z2 (unit rows z / max(|z|, eps), or as they are),
//   stacked: 2n losses l_i = log(1 + exp(a_i - p_i)), a_i = log sum exp(c u_i . u_k) over the other 2n - 2 stacked rows
//            (NT-Xent)
//   rows:    n losses, a_i = log sum_{k != i} exp(c x_i . y_k) (InfoNCE)
//   both:    the n of `rows` and those with x and y exchanged (CLIP)
//   sigmoid: n losses, l_i = log(1 + exp(-p_i - t)) + sum_{k != i} log(1 + exp(c x_i . y_k + t)) (SigLIP)
//   loss = factor sum_i weight_i l_i, with the weight of the sample of row i
// Gradient, with w_i = weight_i sigmoid(a_i - p_i), W the weights of `pairwise` for it and w_p(i) that of the other view
// (0 for n losses); for `sigmoid` w_i = weight_i sigmoid(-p_i - t):
//   v = W y - (w_i + w_p(i)) y_i for the rows x, and the same for y;   grad_scale = factor sum_i x_i . v_i
//   grad_x = factor c v, then through the normalisation;   grad_bias = factor (sum W - sum w)
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

struct ViewLoss {
  int form;           // as in cpu/two_views.h: 0 stacked, 1 rows, 2 both, 3 sigmoid
  bool unit;          // normalise the rows
  bool half;          // products of rows rounded to bfloat16 (`bf16_products`, float32 and bfloat16 rows)
  bool gradient;      // make it
  double factor = 1;  // of the loss
  static constexpr auto fields() {
    return std::make_tuple(&ViewLoss::form, &ViewLoss::unit, &ViewLoss::half, &ViewLoss::gradient, &ViewLoss::factor);
  }
};

struct PairedRows {
  TensorPair z;       // [n, d] each, any row stride; with `half` also bfloat16, all else in float then
  TensorView scale;   // [], or absent: the number
  TensorView bias;    // [], or absent: the offset; of `sigmoid`
  double number = 1;  // c
  double offset = 0;  // t
  TensorView weight;  // [n], or absent: 1
  static constexpr auto fields() {
    return std::make_tuple(&PairedRows::z, &PairedRows::scale, &PairedRows::bias, &PairedRows::number,
                           &PairedRows::offset, &PairedRows::weight);
  }
};

struct ViewResults {
  TensorView loss;        // []
  TensorView samples;     // [n], the gradient of weight: factor times the losses of the sample; or absent
  TensorPair grad_z;      // [n, d] each, the second may be absent unless stacked; both without a gradient
  TensorView grad_scale;  // [], or absent
  TensorView grad_bias;   // [], or absent
  static constexpr auto fields() {
    return std::make_tuple(&ViewResults::loss, &ViewResults::samples, &ViewResults::grad_z, &ViewResults::grad_scale,
                           &ViewResults::grad_bias);
  }
};

// In elements of the loss; dtype: of the rows; factor is not read.
int64_t two_views_workspace_size(int64_t n, int64_t d, int dtype, const ViewLoss& loss);

// run.workspace may be absent: scratch of the calling thread is used, which the thread keeps.
void two_views(const PairedRows& in, const ViewLoss& loss, const ViewResults& out, const Run& run);

}  // namespace sslspec

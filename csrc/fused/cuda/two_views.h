// Two views of n samples on the GPU: rows in, loss out, and back. Every pass is one call that launches all its kernels.
// With p_i = c x_i . y_i the logit of a pair, x and y the rows of z1 and z2 (unit rows, or as they are),
//   stacked: 2n losses log(1 + exp(a_i - p_i)), a_i = log sum exp(c u_i . u_k) over the other 2n - 2 stacked rows
//            (NT-Xent)
//   rows:    n losses, a_i = log sum_{k != i} exp(c x_i . y_k) (InfoNCE)
//   both:    n losses, the mean of `rows` and of the same with x and y exchanged (CLIP)
// Backward, with w the gradient of a and W the weights of `pairwise` for it: v = W y - (w_i + w_p(i)) y_i for the rows
// x, with w_p(i) of the other view (stacked), of column i (both), or 0 (rows); the same for y;
// grad_scale = sum_i x_i . v_i, grad_x = c v, then through the normalisation.
//
// Rows come in their own type, bfloat16, float16, float32 or float64. What is not a row is float32 (float64): unit rows
// are computed there, rounded once where bfloat16 rows are multiplied, and computed again in the backward pass rather
// than stored. Columns of u beyond d are zero and fill its rows to 16 bytes.
#pragma once
#include "common/tensor_view.h"

namespace sslspec::cuda {

enum class ViewForm { stacked = 0, rows = 1, both = 2 };

// Elements of the workspace of a pass, of the dtype of the statistics; dtype: of the multiplied rows, `width` columns.
// own_product: the backward pass is given none.
int64_t two_views_workspace_size(int64_t n, int64_t width, int dtype, int form, bool backward, bool own_product);

int64_t two_views_stats_size(int64_t n, bool number);  // number: the loss is one, not that of every anchor

struct ViewInputs {
  TensorView z1, z2;  // [n, d], any row stride
  TensorView u;       // out of the forward pass: [2n, width] of bfloat16 for bfloat16 rows, else of the dtype of stats;
                      // [0, width]: the rows are multiplied as they are (which needs them at 16 bytes)
  TensorView stats;   // out of the forward pass: [two_views_stats_size], norms (2n), x . y (n), a (2n: rows, then
                      // columns), ids (2n int32), bounds (8 ceil(n / 128)), where the loss is one number w (2n) for a
                      // gradient of 1, the weights of `pairwise` for it and whether one shift was not enough; and
                      // at the end the scale
  int form;           // ViewForm
  bool unit;
  TensorView matrix;  // out of the forward pass of one number, or absent: the weights W for a gradient of 1 of the rows
                      // z1 (stacked: of all rows) against z2 in bfloat16, whole tiles of 128 x 128, from exponentials
                      // that the statistics keep. Not for the form rows
  static constexpr auto fields() {
    using I = ViewInputs;
    return std::make_tuple(&I::z1, &I::z2, &I::u, &I::stats, &I::form, &I::unit, &I::matrix);
  }
};

void two_views_forward(const ViewInputs& views, TensorView scale, double number,  // [], or absent: the number
                       TensorView loss,  // out, [2, n] stacked, else [n]; or []: weight times the sum
                       double weight, const Run& run, bool fast,
                       bool tries);  // one shift for all logits beyond a narrow range, of one number

// w of the losses of all anchors to the first 2n elements of the workspace. grad: of them, any strides.
void two_views_factors(const ViewInputs& views, TensorView grad, const Run& run);

// Rows row0.. of the weights W of the rows z1 (stacked: of all rows) against z2 that `stats` of one number hold, as a
// matrix or in pieces like those of pairwise_weight_rows. The workspace keeps two_views_vectors_size floats from the
// first chunk on.
int64_t two_views_vectors_size(int64_t rows);
void two_views_weight_rows(const ViewInputs& views, int64_t row0, TensorView weights, const Run& run, bool fast);

void two_views_backward(const ViewInputs& views, TensorView grad,
                        const TensorPair& products,  // [n, width] c W y, c W' x for the factors of two_views_factors,
                                                     // or W y, W' x for those of stats where grad is one number,
                                                     // or absent: computed here (width <= 256)
                        const TensorPair& grad_z,    // [n, d] out, dtype of z; the second may be absent unless
                                                     // stacked
                        TensorView grad_scale,       // [] out or absent
                        const Run& run, bool fast,
                        bool by_row);  // the first product takes the factors of rows of info_nce_loss.h

}  // namespace sslspec::cuda

// InfoNCE of wide rows on the GPU, as one number, in one visit of the pairs: two_views.h in the form `rows`, with
//   e_ij = exp(c x_i . y_j - shift_i),  sum_i = sum_{j != i} e_ij,  W_ij = f_i e_ij,  f_i = w_i / sum_i:
// the matrix e is written once, by the kernel that adds up its rows, and the caller's library multiplies e y and
// e' (f x), where f is known as soon as the rows of a chunk are done. two_views_backward takes both products, the first
// before the factors f, which stats hold in place of weights.
#pragma once
#include "fused/cuda/two_views.h"

namespace sslspec::cuda {

int64_t info_nce_loss_workspace_size(int64_t n, int64_t rows);  // floats, for chunks of at most `rows` rows

// Unit rows and what else belongs to rows.
void info_nce_loss_begin(const ViewInputs& views, TensorView scale, double number, int64_t stream);

// Rows row0.. : the matrix e as pairwise_weight_rows writes weights, and the rows x of the chunk times f, [rows, width]
// in the type in which they are multiplied. Chunks come in order, multiples of 128 rows or the last, which makes the
// loss [], `weight` times the sum; the workspace is one for all of them.
void info_nce_loss_rows(const ViewInputs& views, int64_t row0, TensorView exponentials, TensorView scaled,
                        TensorView loss, double weight, const Run& run, bool fast);

}  // namespace sslspec::cuda

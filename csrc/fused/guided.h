// Rows of a softmax with one positive whose negatives are rows of the batch, without those that a guide leaves out, and
// the gradient of their weighted sum.
//
// Sides: queries x_0 (n rows), keys x_1 (n) and further negatives x_2 (l rows, or none), each with the rows g of a guide.
// Row i of the loss has the logits s = c x_s,i . x_t,j of the chosen directions (s, t) with g_s,i . g_t,j <= bound_i; not
// i == j, of a side with itself and of a query with its key. With a = log sum e^s and its positive p,
//   rows_i = log(1 + e^(a_i - p_i)),   grad_positive_i = -weight_i sigmoid(a_i - p_i),
//   W_ij = -grad_positive_i e^(s_ij - a_i),   grad_s,i += c sum_j W_ij x_t,j,   grad_t,j += c sum_i W_ij x_s,i.
// Where keys look at queries, e^p is one more term of the sum. A row without any pair has neither loss nor gradient.
//
// Pairs of logits are stored as far as they are kept between the two passes of a call (simd/kept.h), as are the guide's.
#pragma once
#include <array>
#include <vector>

#include "common/tensor_view.h"

namespace sslspec {

struct GuidedLoss {
  TensorView scale;                    // []
  TensorView bound, positive, weight;  // [n]
  int directions = 0;                  // bits: 1 queries look at keys, 2 at queries, 4 keys look at keys, 8 at queries
  static constexpr auto fields() {
    return std::make_tuple(&GuidedLoss::scale, &GuidedLoss::bound, &GuidedLoss::positive, &GuidedLoss::weight,
                           &GuidedLoss::directions);
  }
};

// sizes: {n, l, d, width of the guide}
int64_t guided_workspace_size(const std::array<int64_t, 4>& sizes, int dtype, bool backward);

void guided(const std::vector<TensorView>& rows,    // [n, d], [n, d] and [l, d] if there are negatives
            const std::vector<TensorView>& guides,  // [n, e], ...
            const GuidedLoss& loss,
            TensorView row_loss,                   // [n] out
            TensorView grad_positive,              // [n] out
            const std::vector<TensorView>& grads,  // as rows, out; absent where none is requested
            const Run& run);

}  // namespace sslspec

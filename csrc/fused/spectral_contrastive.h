// The spectral contrastive loss of two views on the d x d side. With x, y the rows of the views, cut to length
// `longest`:
//   value[0] = sum_i s_i,  s_i = x_i . y_i;   value[1] = sum_{i != j} (x_i . y_j)^2 = <X^T X, Y^T Y> - sum_i s_i^2
//   gradient of attraction value[0] + repulsion value[1] with respect to x_i, and likewise to y_i:
//     2 repulsion x_i (Y^T Y) + (attraction - 2 repulsion s_i) y_i,   then through the cut as in rows/unit_rows.h
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

int64_t spectral_contrastive_workspace_size(int64_t n, int64_t d, int dtype);

struct SpectralWeights {
  double longest;  // > 0
  double attraction, repulsion;
  static constexpr auto fields() {
    return std::make_tuple(&SpectralWeights::longest, &SpectralWeights::attraction, &SpectralWeights::repulsion);
  }
};

void spectral_contrastive(TensorView z1, TensorView z2,  // [n, d]; with `half` also bfloat16
                          const SpectralWeights& weights,
                          bool half,                // products of rows rounded to bfloat16, added up in float32
                          TensorView value,         // [2] float64 out
                          const TensorPair& grads,  // [n, d] out in float (double), or absent
                          const Run& run);

}  // namespace sslspec

// CUDA entry points of this folder: what is done to a matrix of products between two library GEMMs. The mathematics is
// in csrc/normality/sliced_ecf.h and pairwise_kernel.h.
#pragma once
#include "normality/pairwise_kernel.h"

namespace sslspec::cuda {

int64_t sliced_ecf_slabs(int64_t n);  // how many partial sums the rows of a view give

// half: [views, n, S], projections times step / 2. sums: [slabs, views, 2 knots, S] out, in the dtype of half: cosines
// and sines of k theta, k = 1 ... knots.
void sliced_ecf_sums(TensorView half, TensorView sums, int64_t stream);

// half becomes sum_k a_k cos(k theta) + b_k sin(k theta); coefficients: [views, 2 knots, S], a and then b.
void sliced_ecf_gradient(TensorView half, TensorView coefficients, int64_t stream);

// dots: [views, rows, n], products of rows first ... with all rows of their view; becomes k'(|z_i - z_j|^2), 0 for
// i == j. row_sum: [views, rows] its sums; row_value: those of k - o_i - o_j, without i == j, in double.
void pairwise_kernel_weights(TensorView dots, int64_t first, TensorView lengths, TensorView offsets,
                             const Radial& radial, TensorView row_sum, TensorView row_value, int64_t stream);

}  // namespace sslspec::cuda

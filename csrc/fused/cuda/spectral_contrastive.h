// CUDA entry points of `spectral_contrastive`: what stands around the library GEMMs; see
// csrc/fused/spectral_contrastive.h for the mathematics and sslspec_fast/fused/spectral_contrastive_cuda.py for the
// order of the calls. Rows z1, z2 are of any float type.
#pragma once
#include "fused/spectral_contrastive.h"

namespace sslspec::cuda {

inline constexpr int64_t kSpectralRows = 8;  // rows of a block with sums of its own

// factors = the rows of either view, cut to `longest`, in bfloat16 or as computed, zeros below row n; of row i
// rows = (|z1_i|, |z2_i|, t_i), t_i the product of the two factors, or 0 unless `subtracted`. Sums for
// gram_square: pairs (sum_i x_i . y_i, 0) and sum_i t_i^2, one of each for kSpectralRows rows; the counter becomes 0.
void spectral_pack(TensorView z1, TensorView z2,  // [n, d]
                   double longest, bool subtracted,
                   TensorView factors,  // [2, rows >= n, d]
                   TensorView rows,     // [3, n]
                   TensorView sums, int64_t stream);

// factor times the gradients g_1 = attraction y + 2 repulsion (product_1 - t y), y as multiplied beside t, through the
// cut.
void spectral_finish(TensorView z1, TensorView z2, const SpectralWeights& weights, TensorView rows,
                     TensorView products,      // [requested gradients, n, d]
                     TensorView factor,        // ()
                     const TensorPair& grads,  // [n, d] in the type of z1, or absent
                     int64_t stream);

}  // namespace sslspec::cuda

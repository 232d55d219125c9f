// Softmax statistics of nested prefixes, the matryoshka form of `pairwise`. For the logits
//   s^h_ij = alpha^h_i beta^h_j sum_{k < d_h} a_ik b_jk
// over all pairs but i == j and, with ids, those with equal ids:
//   row_lse^h_i = log sum_j exp(s^h_ij),   col_lse^h_j = log sum_i exp(s^h_ij)
//   W^h_ij = grad_row^h_i exp(s^h_ij - row_lse^h_i) + grad_col^h_j exp(s^h_ij - col_lse^h_j)
//   grad_a_ik = sum_j (sum_{h: d_h > k} alpha^h_i W^h_ij beta^h_j) b_jk
//   grad_alpha^h_i = sum_j W^h_ij s^h_ij / alpha^h_i
// and the same for b and beta. Without b the case is symmetric (b = a, beta = alpha), W as in csrc/pairwise/pairwise.h.
// One pass over the d columns serves all prefixes.
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

int64_t pairwise_prefixes_workspace_size(int64_t n, int64_t m, int64_t d, int64_t prefixes, int dtype, bool symmetric,
                                         bool backward);

struct PrefixLogits {
  TensorView a;      // [n, d]
  TensorView b;      // [m, d], or absent: symmetric
  TensorView dims;   // [prefixes] int64, ascending, the last one d
  TensorView alpha;  // [prefixes, n] contiguous, not 0
  TensorView beta;   // [prefixes, m] contiguous, not 0, absent when symmetric
  TensorView ids;    // [n] int32 or absent; symmetric case only
  static constexpr auto fields() {
    return std::make_tuple(&PrefixLogits::a, &PrefixLogits::b, &PrefixLogits::dims, &PrefixLogits::alpha,
                           &PrefixLogits::beta, &PrefixLogits::ids);
  }
};

void pairwise_prefixes_forward(const PrefixLogits& logits,
                               const TensorPair& lse,  // row_lse [prefixes, n] out; col_lse [prefixes, m] out or absent
                               const Run& run);

void pairwise_prefixes_backward(const PrefixLogits& logits, const TensorPair& lse,
                                const TensorPair& grad_lse,     // as lse
                                const TensorPair& grads,        // grad_a [n, d] out; grad_b [m, d] out, absent when
                                                                // symmetric
                                const TensorPair& grad_scales,  // grad_alpha, grad_beta, likewise
                                const Run& run);

}  // namespace sslspec

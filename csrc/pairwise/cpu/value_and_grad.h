// CPU entry points of losses whose rows and gradient are computed together; see csrc/pairwise/pairwise.h for the
// mathematics.
#pragma once
#include "pairwise/cpu/bf16.h"
#include "pairwise/cpu/pairwise.h"

namespace sslspec::cpu {

// Pairwise: PairwiseArgs<T>, or PairwiseBf16Args of rows in bfloat16, which have no panel
template <typename T, typename Pairwise = PairwiseArgs<T>>
struct OnePositiveArgs {
  Pairwise pairwise;  // rectangular; grad_row: the weights of the rows; row_lse: out, the loss of each row; grad_b may
                      // be null
  const T* positive;  // [n]
  T* grad_positive;   // [n] out
  T* panel;           // pairwise_one_positive_panel(n, m) values
};

SSLSPEC_EACH_ISA(template <typename T> int64_t pairwise_one_positive_panel(int64_t n, int64_t m);
                 template <typename T> void pairwise_one_positive(const OnePositiveArgs<T>& args);)

SSLSPEC_EACH_BF16_ISA(void pairwise_bf16_one_positive(const OnePositiveArgs<float, PairwiseBf16Args>& args);)

}  // namespace sslspec::cpu

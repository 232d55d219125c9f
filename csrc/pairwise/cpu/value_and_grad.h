// CPU entry points of losses whose rows and gradient are computed together; see csrc/pairwise/pairwise.h for the
// mathematics.
#pragma once
#include "pairwise/cpu/pairwise.h"

namespace sslspec::cpu {

template <typename T>
struct OnePositiveArgs {
  PairwiseArgs<T>
      pairwise;  // rectangular; grad_row: the weights of the rows; row_lse: out, the loss of each row; grad_b may be null
  const T* positive;  // [n]
  T* grad_positive;   // [n] out
  T* panel;           // pairwise_one_positive_panel(m) values
};

SSLSPEC_EACH_ISA(template <typename T> int64_t pairwise_one_positive_panel(int64_t m);
                 template <typename T> void pairwise_one_positive(const OnePositiveArgs<T>& args);)

}  // namespace sslspec::cpu

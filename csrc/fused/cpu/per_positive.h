// CPU entry point of a softmax for every positive pair; see csrc/fused/per_positive.h for the mathematics.
#pragma once
#include "pairwise/cpu/pairwise.h"
#include "sparse/cpu/csr.h"

namespace sslspec::cpu {

// pairwise: the rows with themselves. Its row_lse and grad_row are written, and grad_a, the whole gradient, if present.
template <typename T>
struct PerPositiveArgs {
  PairwiseArgs<T> pairwise;
  SparseArgs<T> positives;
  const T* weight;  // [n]
  T* slopes;        // [n] out, grad_row of pairwise
  T* rows;          // [n] out
};

SSLSPEC_EACH_ISA(template <typename T> void per_positive(const PerPositiveArgs<T>& args);)

}  // namespace sslspec::cpu

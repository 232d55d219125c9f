// CPU entry points of soft cross-entropy among the rows of a batch; see csrc/pairwise/soft_self.h for the mathematics.
#pragma once
#include "pairwise/cpu/bf16.h"
#include "pairwise/cpu/pairwise.h"

namespace sslspec::cpu {

// student, teacher: rows with themselves, each without itself. At the end their row_lse hold the losses and the
// entropies. student.grad_a: sum_j (W_ij + W_ji) x_j, not yet multiplied by the scale, or null.
template <typename T, typename Args = PairwiseArgs<T>>
struct SoftSelfArgs {
  Args student, teacher;
  const T* weight;  // [n]
  T* sums;          // workspace, 3 soft_self_rows(n)
};

// Rows of the workspace: whole blocks
inline int64_t soft_self_rows(int64_t n) { return (n + 191) / 192 * 192; }

SSLSPEC_EACH_ISA(template <typename T> void pairwise_soft_self(const SoftSelfArgs<T>& args);)

SSLSPEC_EACH_BF16_ISA(void pairwise_bf16_soft_self(const SoftSelfArgs<float, PairwiseBf16Args>& args);)

}  // namespace sslspec::cpu

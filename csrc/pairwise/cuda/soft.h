// CUDA entry points of soft cross-entropy: what is done to logits between two library GEMMs. The mathematics is in
// csrc/pairwise/soft.h.
#pragma once
#include <array>

#include "common/tensor_view.h"

namespace sslspec::cuda {

// logits [rows, k] (+ bias [k] or absent), row i leaving out column first + i if skip_self: lse and entropy [rows].
void pairwise_soft_statistics(TensorView logits, TensorView bias, int64_t first, bool skip_self, TensorView lse,
                              TensorView entropy, int64_t stream);

// Weights in place of the logits of the students [rows, k].
void pairwise_soft_weights(const std::array<TensorView, 2>& student,  // logits, lse
                           const std::array<TensorView, 3>& teacher,  // logits, lse, bias; all absent, or the last
                           const std::array<TensorView, 2>& own,      // weight [rows]; tilt [k] or absent
                           int64_t first, bool skip_self,
                           TensorView rows,  // [rows] out: the losses, with teachers
                           int64_t stream);

}  // namespace sslspec::cuda

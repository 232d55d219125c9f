// CPU entry points of `pairwise` for bfloat16 rows of a and b: see csrc/pairwise/pairwise.h, with grad_b_j = sum_i W_ij
// a_i, not yet multiplied by the scale, of which a softmax has one for all rows. Only where `bf16_products()`
// (simd/isa.h).
#pragma once
#include "pairwise/cpu/pairwise.h"

namespace sslspec::cpu {

struct PairwiseBf16Args : PairwiseArgs<float> {  // a and b unused
  const uint16_t* half_a;                        // [n, d] row stride lda
  const uint16_t* half_b;                        // [m, d] row stride ldb
};

SSLSPEC_EACH_BF16_ISA(void pairwise_bf16_forward(const PairwiseBf16Args& args);
                      void pairwise_bf16_backward(const PairwiseBf16Args& args);
                      void pairwise_bf16_value_and_grad(const PairwiseBf16Args& args, const RowsCallback& weigh);
                      void pairwise_bf16_sigmoid_forward(const PairwiseBf16Args& args);
                      void pairwise_bf16_sigmoid_backward(const PairwiseBf16Args& args);)

}  // namespace sslspec::cpu

// CPU entry points of the softmax part of `pairwise` for bfloat16 rows of a and b: see csrc/pairwise/pairwise.h, with
// one scale for all rows and grad_b_j = sum_i W_ij a_i, not yet multiplied by it. Only where `bf16_products()`
// (simd/isa.h).
#pragma once
#include "pairwise/cpu/pairwise.h"

namespace sslspec::cpu {

struct PairwiseBf16Args : PairwiseArgs<float> {  // a and b unused
  const uint16_t* half_a;                        // [n, d] row stride lda
  const uint16_t* half_b;                        // [m, d] row stride ldb
};

namespace avx512bf16 {
int64_t pairwise_bf16_workspace(int64_t n, int64_t m, int64_t d, bool symmetric, bool backward);
void pairwise_bf16_forward(const PairwiseBf16Args& args);
void pairwise_bf16_backward(const PairwiseBf16Args& args);
}  // namespace avx512bf16

}  // namespace sslspec::cpu

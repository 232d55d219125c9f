// CPU entry points of the prefix statistics; see csrc/pairwise/prefixes.h for the mathematics.
#pragma once
#include "pairwise/cpu/pairwise.h"

namespace sslspec::cpu {

template <typename T>
struct PairwisePrefixesArgs {
  PairwiseArgs<T> pairs;  // without scale; statistics and their gradients are [prefixes, n] and [prefixes, m]
  int64_t prefixes;
  const int64_t* dims;  // [prefixes] ascending, the last one d
  const T* alpha;       // [prefixes, n]
  const T* beta;        // [prefixes, m]; alpha in the symmetric case
  T* grad_alpha;        // [prefixes, n]; backward only
  T* grad_beta;         // [prefixes, m]; unused in the symmetric case
};

struct PrefixesBf16Args : PairwisePrefixesArgs<float> {  // pairs.a and pairs.b unused
  const uint16_t* half_a;                                // [n, d] row stride lda
  const uint16_t* half_b;                                // [m, d] row stride ldb
};

// Only where `bf16_products()` (simd/isa.h).
SSLSPEC_EACH_BF16_ISA(void pairwise_bf16_prefixes_forward(const PrefixesBf16Args& args);
                      void pairwise_bf16_prefixes_backward(const PrefixesBf16Args& args);)

SSLSPEC_EACH_ISA(template <typename T>
                 int64_t pairwise_prefixes_workspace(int64_t n, int64_t m, int64_t d, int64_t prefixes, bool symmetric,
                                                     bool backward);
                 template <typename T> void pairwise_prefixes_forward(const PairwisePrefixesArgs<T>& args);
                 template <typename T> void pairwise_prefixes_backward(const PairwisePrefixesArgs<T>& args);)

}  // namespace sslspec::cpu

// Log-sum-exp statistics of nested prefixes in float and double; the algorithm is in prefixes_pairs.h.
#include "pairwise/cpu/prefixes_pairs.h"

namespace sslspec::cpu::SSLSPEC_ISA {

template <typename T>
int64_t pairwise_prefixes_workspace(int64_t n, int64_t m, int64_t d, int64_t prefixes, bool symmetric, bool backward) {
  return PrefixBuffers<T>(nullptr, n, m, d, prefixes, symmetric, backward).size;
}
template <typename T>
void pairwise_prefixes_forward(const PairwisePrefixesArgs<T>& args) {
  Prefixes<ExactOperands<T>>(args, args.pairs.a, args.pairs.b, false).forward();
}
template <typename T>
void pairwise_prefixes_backward(const PairwisePrefixesArgs<T>& args) {
  Prefixes<ExactOperands<T>>(args, args.pairs.a, args.pairs.b, true).backward();
}

template int64_t pairwise_prefixes_workspace<float>(int64_t, int64_t, int64_t, int64_t, bool, bool);
template int64_t pairwise_prefixes_workspace<double>(int64_t, int64_t, int64_t, int64_t, bool, bool);
template void pairwise_prefixes_forward<float>(const PairwisePrefixesArgs<float>&);
template void pairwise_prefixes_forward<double>(const PairwisePrefixesArgs<double>&);
template void pairwise_prefixes_backward<float>(const PairwisePrefixesArgs<float>&);
template void pairwise_prefixes_backward<double>(const PairwisePrefixesArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

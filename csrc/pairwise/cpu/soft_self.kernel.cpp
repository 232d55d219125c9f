// Soft cross-entropy among the rows of a batch in float and double; the algorithm is in soft_self_pairs.h.
#include "pairwise/cpu/soft_self_pairs.h"

namespace sslspec::cpu::SSLSPEC_ISA {

template <typename T>
void pairwise_soft_self(const SoftSelfArgs<T>& args) {
  SoftSelf<PairwisePanels<T>>(args).run();
}

template void pairwise_soft_self<float>(const SoftSelfArgs<float>&);
template void pairwise_soft_self<double>(const SoftSelfArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

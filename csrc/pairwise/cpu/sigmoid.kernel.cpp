// The sigmoid part of `pairwise` in float and double; the algorithm is in sigmoid.h.
#include "pairwise/cpu/sigmoid.h"

namespace sslspec::cpu::SSLSPEC_ISA {

template <typename T>
void pairwise_sigmoid_forward(const PairwiseArgs<T>& args) {
  Sigmoid<PairwisePanels<T>>(args, Pass::forward).forward();
}
template <typename T>
void pairwise_sigmoid_backward(const PairwiseArgs<T>& args) {
  Sigmoid<PairwisePanels<T>>(args, Pass::backward).backward();
}

template void pairwise_sigmoid_forward<float>(const PairwiseArgs<float>&);
template void pairwise_sigmoid_forward<double>(const PairwiseArgs<double>&);
template void pairwise_sigmoid_backward<float>(const PairwiseArgs<float>&);
template void pairwise_sigmoid_backward<double>(const PairwiseArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// The softmax part of `pairwise` in float and double; the algorithm is in softmax.h.
#include "pairwise/cpu/softmax.h"

namespace sslspec::cpu::SSLSPEC_ISA {

template <typename T>
int64_t pairwise_workspace(int64_t n, int64_t m, int64_t d, bool symmetric, bool backward) {
  return PairwiseBuffers<T>(nullptr, n, m, d, symmetric, backward).size;
}
template <typename T>
void pairwise_forward(const PairwiseArgs<T>& args) {
  Softmax<PairwisePanels<T>>(args, Pass::forward).forward();
}
template <typename T>
void pairwise_backward(const PairwiseArgs<T>& args) {
  Softmax<PairwisePanels<T>>(args, Pass::backward).backward();
}
template <typename T>
void pairwise_value_and_grad(const PairwiseArgs<T>& args, const RowsCallback& weigh) {
  Softmax<PairwisePanels<T>>(args, Pass::both).value_and_grad(weigh);
}

template int64_t pairwise_workspace<float>(int64_t, int64_t, int64_t, bool, bool);
template int64_t pairwise_workspace<double>(int64_t, int64_t, int64_t, bool, bool);
template void pairwise_forward<float>(const PairwiseArgs<float>&);
template void pairwise_forward<double>(const PairwiseArgs<double>&);
template void pairwise_backward<float>(const PairwiseArgs<float>&);
template void pairwise_backward<double>(const PairwiseArgs<double>&);
template void pairwise_value_and_grad<float>(const PairwiseArgs<float>&, const RowsCallback&);
template void pairwise_value_and_grad<double>(const PairwiseArgs<double>&, const RowsCallback&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// `gram` in float and double; the algorithm is in squares.h.
#include "gram/cpu/squares.h"

namespace sslspec::cpu::SSLSPEC_ISA {

template <typename T>
int64_t gram_workspace(int64_t n, int64_t d, int operands, bool cross, bool dual) {
  return Layout<Exact<T>>(nullptr, n, d, operands, cross, dual).size;
}
template <typename T>
void gram(const GramArgs<T>& args) {
  Squares<Cells<Exact<T>>>(args).run();
}

template int64_t gram_workspace<float>(int64_t, int64_t, int, bool, bool);
template int64_t gram_workspace<double>(int64_t, int64_t, int, bool, bool);
template void gram<float>(const GramArgs<float>&);
template void gram<double>(const GramArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// The softmax and the sigmoid part of `pairwise`, rows with one positive, statistics of nested prefixes and soft
// cross-entropy among rows, for rows in bfloat16; the algorithms are in softmax.h, sigmoid.h, prefixes_pairs.h and
// soft_self_pairs.h.
#include "pairwise/cpu/bf16_panels.h"
#include "pairwise/cpu/prefixes_pairs.h"
#include "pairwise/cpu/sigmoid.h"
#include "pairwise/cpu/soft_self_pairs.h"
#include "pairwise/cpu/softmax.h"
#include "pairwise/cpu/value_and_grad.h"

namespace sslspec::cpu::SSLSPEC_ISA {

void pairwise_bf16_forward(const PairwiseBf16Args& args) { Softmax<Bf16Panels>(args, Pass::forward).forward(); }
void pairwise_bf16_backward(const PairwiseBf16Args& args) { Softmax<Bf16Panels>(args, Pass::backward).backward(); }
void pairwise_bf16_value_and_grad(const PairwiseBf16Args& args, const RowsCallback& weigh) {
  Softmax<Bf16Panels>(args, Pass::both).value_and_grad(weigh);
}
void pairwise_bf16_sigmoid_forward(const PairwiseBf16Args& args) { Sigmoid<Bf16Panels>(args, Pass::forward).forward(); }
void pairwise_bf16_sigmoid_backward(const PairwiseBf16Args& args) {
  Sigmoid<Bf16Panels>(args, Pass::backward).backward();
}
void pairwise_bf16_one_positive(const OnePositiveArgs<float, PairwiseBf16Args>& args) {
  one_positive<Bf16Panels>(args);
}
void pairwise_bf16_soft_self(const SoftSelfArgs<float, PairwiseBf16Args>& args) { SoftSelf<Bf16Panels>(args).run(); }
void pairwise_bf16_prefixes_forward(const PrefixesBf16Args& args) {
  Prefixes<Bf16Operands>(args, args.half_a, args.half_b, false).forward();
}
void pairwise_bf16_prefixes_backward(const PrefixesBf16Args& args) {
  Prefixes<Bf16Operands>(args, args.half_a, args.half_b, true).backward();
}

}  // namespace sslspec::cpu::SSLSPEC_ISA

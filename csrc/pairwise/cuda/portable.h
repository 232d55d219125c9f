// The kernels of `pairwise` for every GPU from compute capability 8.0 on; arguments as of pairwise_statistics and so on.
#pragma once
#include "pairwise/cuda/kernels.h"

namespace sslspec::cuda {

void portable_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts);
void portable_chained(const PairwiseProblem& p, const PairwiseBackward& b);
void portable_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w);
void portable_sigmoid(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums);

}  // namespace sslspec::cuda

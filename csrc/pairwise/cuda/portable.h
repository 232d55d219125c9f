// The kernels of `pairwise` for every GPU from compute capability 8.0 on; arguments as of pairwise_statistics and so on.
#pragma once
#include "pairwise/cuda/kernels.h"

namespace sslspec::cuda {

void portable_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts);
void portable_chained(const PairwiseProblem& p, const PairwiseBackward& b);
void portable_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w);
void portable_exponentials(const PairwiseProblem& p, const WeightRows& w, float* workspace);
void portable_sigmoid(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums);

// Before the first chunk of pairwise_exponentials, the shift of all rows; and after each, the rows that need their own.
void exponentials_shift(const PairwiseProblem& p, float* workspace);
void exponentials_again(const PairwiseProblem& p, const WeightRows& w, float* workspace);

}  // namespace sslspec::cuda

// CUDA entry points of `basis` for narrow blocks; see csrc/basis/basis.h for the mathematics.
#pragma once
#include <vector>

#include "common/tensor_view.h"

namespace sslspec::cuda {

// Most blocks of one call; most columns of them together, each counted in fours; most columns of the other side.
inline constexpr int kBasisTerms = 4, kBasisTall = 128, kBasisNarrow = 32;

int64_t basis_gram_workspace_size(int64_t n, int64_t p, int64_t q);  // in float64; p: columns, each block's in fours

void basis_gram(const std::vector<TensorView>& a, TensorView b, TensorView w, TensorView g, bool exact, const Run& run);

void basis_combine(TensorView y, const std::vector<TensorView>& v, TensorView c, double beta,
                   int64_t stream);  // c: [sum of m_i, q]

void basis_random(TensorView y, int64_t first, uint64_t seed, int64_t stream);

}  // namespace sslspec::cuda

// Primitive `basis`: products of tall matrices (n rows, few columns), the work of an eigensolver beside its products
// with A.
//   gram      G = A^T diag(w) B     A = [A_1 A_2 ...]; w: optional weights of the rows
//   random    values of a start block, a function of seed and position alone
//   combine   Y = beta * Y + sum_i V_i C_i        Y may be a V_i or its first columns: rows are read, then written
#pragma once
#include <cstdint>
#include <vector>

#include "common/tensor_view.h"

namespace sslspec {

int64_t basis_gram_workspace_size(int64_t n, int64_t p, int64_t q);  // in float64

void basis_gram(const std::vector<TensorView>& a,  // [n, p_i]
                TensorView b,                      // [n, q]
                TensorView w,                      // [n] or absent: ones
                TensorView g,                      // [sum of p_i, q] float64, contiguous
                bool exact,                        // products in double even of float rows
                const Run& run);

void basis_combine(TensorView y,                      // [n, q] in and out; beta == 0 never reads it
                   const std::vector<TensorView>& v,  // [n, m_i]
                   const std::vector<TensorView>& c,  // [m_i, q]
                   double beta, int threads);

void basis_random(TensorView y,   // [n, q] contiguous, out: uniform on 2^16 values in [-1, 1)
                  int64_t first,  // row of the whole block that y begins with
                  uint64_t seed, int threads);

}  // namespace sslspec

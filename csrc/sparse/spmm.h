// Primitive `spmm`: products of a sparse matrix A (n x m, compressed rows) and a tall matrix.
//   Y = alpha * r (A (c X)) + beta * Y + (gamma + delta * diagonal) W        r, c: optional row and column factors
//   (with W = X one step of a three-term recurrence in diag(s) A diag(s) or in a Laplacian, diagonal = degrees)
//   with `own`: sums of differences, (A X)_i becomes sum_j a_ij (own_i - x_j)
//   with `add_scales`: the entry a_ij counts a_ij (r_i + c_j), the form of gradients of symmetric edge sums
// beta == 0 never reads Y.
#pragma once
#include "sparse/csr.h"

namespace sslspec {

struct Scales {    // r and c
  TensorView row;  // [n] or absent
  TensorView col;  // [m] or absent
  bool add;        // add_scales
  static constexpr auto fields() { return std::make_tuple(&Scales::row, &Scales::col, &Scales::add); }
};

struct Combination {
  double alpha, beta, gamma, delta;
  TensorView w;         // [n, b] or absent
  TensorView diagonal;  // [n] or absent
  static constexpr auto fields() {
    using C = Combination;
    return std::make_tuple(&C::alpha, &C::beta, &C::gamma, &C::delta, &C::w, &C::diagonal);
  }
};

void spmm(const CsrView& a,
          TensorView x,    // [m, b]
          TensorView own,  // [n, b] or absent
          const Scales& scales, const Combination& combination,
          TensorView y,  // [n, b] in and out
          int threads);

}  // namespace sslspec

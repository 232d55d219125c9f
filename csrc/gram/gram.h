// Primitive `gram`. For standardised operands xs = (x - shift) * scale, ys likewise, C = xs^T ys (d x d):
//   value = sum_kl C_kl^2, without k == l if off_diagonal
//   grad_x = alpha ys C'^T + own * xs + other * ys + near (x - y),   grad_y = alpha xs C' + ... + near (y - x)
// with C' = C masked like the value. With `tail`, C'_kl = min(tail_k, tail_l) C_kl and value = sum_kl C'_kl C_kl. x - y
// is taken before anything is scaled or centred: close views cancel exactly.
// In the self form each operand is its own partner (two independent values), in the cross form x and y are partners.
// The derivative of the value alone is alpha = 4 (self) or 2 (cross) with nothing added.
//
// Both sides of the duality ||X^T Y||_F^2 = <X X^T, Y Y^T> are there, and neither the d x d nor the n x n matrix is
// stored: the work is cut into pairs of blocks of at most 384, whose tile is made, reduced and used for the gradient
// of both blocks. On the dual side the masked terms are subtracted: value -= sum_k C_kk^2 with C_kk = diagonal_k, which
// needs n <= d / 2 and columns of like size: the rank then keeps the rest as large. Without `diagonal` the d x d tiles
// are masked.
//
// `half`: products of xs and ys rounded to bfloat16, and of C' or the same on the dual side, added up in float32.
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

bool gram_uses_dual(int64_t n, int64_t d, bool off_diagonal);
// Whether the dual side may subtract sum_k C_kk^2 for C = x^T x: n <= d / 2, and no column holds nearly all. C has rank
// n, so |C|^2 >= (sum_k C_kk)^2 / n; at least a quarter of |C|^2 is left where that bound is 4/3 of what is subtracted.
bool gram_may_subtract(TensorView diagonal,  // [operands, d] float64: C_kk
                       int64_t n);
// In float or double; dtype bf16: of the form with `half`.
int64_t gram_workspace_size(int64_t n, int64_t d, int dtype, int operands, bool cross, bool dual);

struct GramForm {
  double alpha;
  bool cross;  // needs y
  bool off_diagonal;
  TensorView shift;     // [operands, d] or absent
  TensorView scale;     // [operands, d] or absent
  TensorView diagonal;  // [operands or 1, d] float64, or absent: off_diagonal then masks d x d tiles
  TensorView own;       // [operands, d] or absent
  TensorView other;     // [operands, d] or absent
  double near;          // needs y, and no project
  bool project;         // gradients with respect to x and y instead of xs and ys; needs shift and scale
  bool half;            // needs float32 and a processor that multiplies bfloat16
  TensorView tail{};    // [d] or absent; x alone, always on the d x d side
  static constexpr auto fields() {
    using F = GramForm;
    return std::make_tuple(&F::alpha, &F::cross, &F::off_diagonal, &F::shift, &F::scale, &F::diagonal, &F::own,
                           &F::other, &F::near, &F::project, &F::half, &F::tail);
  }
};

void gram(TensorView x,  // [n, d]; with `half` also bfloat16, all else in float
          TensorView y,  // [n, d] or absent
          const GramForm& form,
          TensorView value,         // [operands or 1] float64 out
          const TensorPair& grads,  // of x and y, [n, d] out or absent
          const Run& run);

}  // namespace sslspec

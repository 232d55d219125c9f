// CUDA entry points of `gram`: what stands around the library GEMMs; see csrc/gram/gram.h for the mathematics and
// sslspec_fast/primitives/gram/cuda.py for the order of the calls. Rows x, y are of any float type; everything else is
// float, or double for double.
//
// Ten vectors describe what is done to the columns, `columns` [10, d]: shift, scale, own, other and diagonal of either
// operand. Sums of terms arrive in `sums` (float64), one slot per block, in the order in which the last block of
// `gram_square` adds them up: a counter of blocks (1), pairs of terms, what is subtracted, squared products.
#pragma once
#include <vector>

#include "common/tensor_view.h"

namespace sslspec::cuda {

inline constexpr int64_t kGramBlock = 32;  // columns with a pair of terms of their own
inline constexpr int64_t kGramRows = 8;    // rows of a product with sums of their own
// What the backward pass gets in place of the products: the factors and the matrices, which are of rows or of columns.
enum GramKept { kKeptProducts = 0, kKeptRows = 1, kKeptColumns = 2 };
enum GramKind { kGramPlain = 0, kGramCentred = 1, kGramVicreg = 2, kGramBarlow = 3 };

// How a loss and its gradient are composed.
struct GramForm {
  int kind;    // GramKind
  bool cross;  // the product of both operands, not that of each with itself; needs y
  bool half;   // factors are bfloat16
  double eps, strength;
  double alpha, near;
  int kept;  // GramKept
  static constexpr auto fields() {
    using F = GramForm;
    return std::make_tuple(&F::kind, &F::cross, &F::half, &F::eps, &F::strength, &F::alpha, &F::near, &F::kept);
  }
};

int64_t gram_workspace_size(int64_t n, int64_t d);  // of gram_prepare or gram_finish

// Columns from the moments of x and y, with eps added to the variances:
//   kGramVicreg: own = strength / deviation where deviation < 1; terms |x - y|^2 and (1 - deviation)_+ of both
//   kGramBarlow: scale = 1 / deviation, other = 2 (C_kk - 1) / n; terms (C_kk - 1)^2 and 0
// factors = (x - shift) scale, in bfloat16 or as computed, zeros below row n. If summed, the workspace keeps sums over
// slabs of rows of their squares or (cross) of their product, which gram_square makes the diagonal; otherwise that is 0.
// Sums: ceil(d / kGramBlock) pairs of terms; the counter becomes 0.
void gram_prepare(TensorView x, TensorView y,  // [n, d], y may be absent
                  const GramForm& form, bool summed, TensorView columns,
                  TensorView factors,  // [operands, rows >= n, d]
                  TensorView sums, const Run& run);

// What gram_prepare left to be added up: the diagonal of n rows. Its squares are subtracted from those of the products.
struct GramDiagonal {
  TensorView workspace, columns;  // both absent: there is none
  int64_t n;
  static constexpr auto fields() {
    using D = GramDiagonal;
    return std::make_tuple(&D::workspace, &D::columns, &D::n);
  }
};

// terms_i = normalizers_i (first terms, second terms, products less what is subtracted), loss = weights . terms.
struct GramLoss {
  int64_t pairs, subtracted;
  std::vector<double> normalizers, weights;  // 3 each
  TensorView loss, terms;                    // [], [3]
  static constexpr auto fields() {
    using L = GramLoss;
    return std::make_tuple(&L::pairs, &L::subtracted, &L::normalizers, &L::weights, &L::loss, &L::terms);
  }
};

// A strip of a product.
struct GramStrip {
  bool cross, masked;
  int64_t offset, slot;  // first slot of `sums`
  static constexpr auto fields() {
    using S = GramStrip;
    return std::make_tuple(&S::cross, &S::masked, &S::offset, &S::slot);
  }
};

// Of the products [m, chunks, r, c], which are added over chunks: the sums of squares or (cross, m = 2) of the product
// of both, for one slot per kGramRows rows (and operand) from `slot` on; out [m, r, c] for the next GEMM, in bfloat16
// or as computed (then it may be the products themselves), exchanged if cross. Masked: without the entries (i, i +
// offset). The first strip takes the diagonal, the last one the loss, which its last block adds up in a fixed order.
void gram_square(TensorView products, const GramStrip& strip, TensorView out, TensorView sums,
                 const GramDiagonal& diagonal, const GramLoss& loss, int64_t stream);  // loss.loss may be absent

// Slots of `sums` that gram_triangle writes for x [n, d], 0 where it does not make the products: it needs bfloat16
// factors (`half`), compute capability 9.0, side (d of columns, otherwise n) and d in multiples of 8, and tiles enough
// for half a GPU: fewer leave the long sums to the library, which cuts them.
int64_t gram_triangle_slots(TensorView x, int64_t operands, bool columns, bool half);

struct GramTriangle {
  bool columns, masked;  // F^T F, otherwise F F^T; without the diagonal
  int64_t slot;          // first slot of `sums`
  static constexpr auto fields() {
    using T = GramTriangle;
    return std::make_tuple(&T::columns, &T::masked, &T::slot);
  }
};

// What a product by the library and gram_square make where the side is one strip: of factors [operands, rows, d] the
// symmetric matrices in bfloat16, from their tiles on and under the diagonal; the sums of their squares, less what is
// subtracted; and the loss.
void gram_triangle(TensorView factors, const GramTriangle& how,
                   TensorView out,  // [operands, side, side]
                   TensorView sums, const GramDiagonal& diagonal, const GramLoss& loss, int64_t stream);

// Whether gram_finish makes the second product too, on Hopper: of bfloat16 rows x [n, d] with bfloat16 factors (`half`),
// d and the side (d of columns, otherwise n) in multiples of 8, where factors and matrices of both operands take no more
// memory than both products in float32, and there are tiles enough for half a GPU. It depends on the shape and the type,
// because both passes of a step ask.
bool gram_keeps_factors(TensorView x, bool columns, bool half);

// factor times the gradients g = alpha (product - diagonal partner) + own xs + other ys + near (x - y) with xs, ys the
// standardised operands (ys, y: the other one), partner = ys if cross, else xs, rounded like the factors (`half`);
// where the operands are scaled (kGramBarlow): (g - mean(g) - xs mean(g xs)) scale.
void gram_finish(TensorView x, TensorView y, const GramForm& form, TensorView columns,
                 TensorView products,      // [requested gradients, n, d]; or as much memory (GramKept): factors
                                           // [2, n, d] and matrices [2, side, side] in bfloat16, one after the other
                 TensorView factor,        // ()
                 const TensorPair& grads,  // [n, d] in the type of x, or absent
                 const Run& run);          // the workspace is absent unless the operands are scaled

}  // namespace sslspec::cuda

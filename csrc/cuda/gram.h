// CUDA entry points of `gram`: the passes over memory around the library GEMMs; see csrc/gram.h for the mathematics and
// sslspec_fast/primitives/_gram_cuda.py for the order of the calls.
#pragma once
#include "common/tensor_view.h"

namespace sslspec::cuda {

int64_t gram_slabs(int64_t n);  // slabs of rows with partial column sums of their own

// factor = (x - shift) scale of one or two operands, in the type of x or in bfloat16. With parts: sums over the rows of
// a slab of what was written, squares of either operand, or (cross) the product of both.
void gram_pack(TensorView x, TensorView y,          // [n, d], y may be absent
               TensorView shift, TensorView scale,  // [operands, d] or absent
               bool cross,
               TensorView x_out, TensorView y_out,
               TensorView parts,  // [slabs, operands, d] or (cross) [slabs, 1, d], or absent
               int64_t stream);

// The gradient of operand `which` of (x, y), g = alpha (made - diagonal partner) + own xs + other ys + near (x - y) with
// xs, ys the standardised operands (ys, y: the other one), partner = ys if cross, else xs, rounded like the factors.
// Without `out`: parts of sum_i g and sum_i g xs. With means (those sums over n): out = (g - means_0 - xs means_1) scale.
void gram_finish(TensorView x, TensorView y, int64_t which, TensorView shift, TensorView scale,
                 TensorView made,      // [n, d]
                 TensorView diagonal,  // [d] or absent
                 TensorView own, TensorView other,  // [operands, d] or absent
                 double alpha, double near, bool cross, bool half,
                 TensorView means,  // [2, d] or absent
                 TensorView parts,  // [slabs, 2, d], in place of out
                 TensorView out,    // [n, d]
                 int64_t stream);

}  // namespace sslspec::cuda

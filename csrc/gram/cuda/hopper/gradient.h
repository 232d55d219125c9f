// The second product of `gram` on Hopper with the gradient as its end, for operands that are not scaled, in bfloat16:
// gradient_sm90a.cu. So the product reaches no memory, and the backward pass is one launch for each operand.
#pragma once
#include <cstdint>

namespace sslspec::cuda {

struct GradientProblem {
  const void *left, *right;             // [n, depth], [depth, d] bfloat16, dense; depth and d multiples of 8
  const void *x, *other;                // the operand and the other one, [n, d] bfloat16, rows at multiples of 16 bytes
  int64_t ldx, ldother;                 // in elements
  const float *shift, *diagonal, *own;  // [d], `columns` of gram.cuh
  const float* factor;                  // from above
  float alpha, near;                    // GramForm
  void* out;                            // [n, d] bfloat16, dense
  int64_t n, d, depth;
  int device;
  int64_t stream;
};

void gram_gradient_sm90a(const GradientProblem& p);

}  // namespace sslspec::cuda

// CPU entry points of the `gram` primitive; see csrc/gram/gram.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

struct Bfloat16;  // simd/bfloat16.h

template <typename T, typename Value = T>
struct GramArgs {
  int operands;       // 1: x alone, 2: x and y
  bool dual;          // work on the n x n side rather than on the d x d side
  bool cross;         // pair the Gram matrices of x and y, rather than each with itself
  const Value* x[2];  // [n, d] row stride ldx
  int64_t ldx[2];
  int64_t n, d;
  const T* shift[2];       // [d] or null: every operand enters as (x - shift) * scale
  const T* scale[2];       // [d] or null
  bool off_diagonal;       // leave out the terms k == l
  const double* diagonal;  // [operands, d], [1, d] when cross, or null: needed for off_diagonal on the dual side only
  const T* tail;           // [d] or null: the term k, l counts min(tail_k, tail_l) times; one operand, d x d side
  double alpha;            // factor of the gradient
  const T* own[2];         // [d] or null: grad += own_k xs_ik
  const T* other[2];       // [d] or null: grad += other_k ys_ik
  T near;                  // grad_x += near (x - y), grad_y += near (y - x), of x and y as they come
  bool project;            // turn the gradient with respect to xs into that with respect to x, given scale
  T* grad[2];              // [n, d] contiguous, or null: not requested
  double* value;           // [operands], [1] when cross
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T>
                 int64_t gram_workspace(int64_t n, int64_t d, int operands, bool cross, bool dual);
                 template <typename T> void gram(const GramArgs<T>& args);)

// Standardised rows and weights of the gradient rounded to bfloat16. Only where `bf16_products()` (simd/isa.h).
SSLSPEC_EACH_BF16_ISA(int64_t gram_bf16_workspace(int64_t n, int64_t d, int operands, bool cross, bool dual);
                      void gram_bf16(const GramArgs<float>& args);
                      void gram_bf16(const GramArgs<float, Bfloat16>& args);)

}  // namespace sslspec::cpu

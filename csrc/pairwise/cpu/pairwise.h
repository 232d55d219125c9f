// CPU entry points of the `pairwise` primitive; see csrc/pairwise/pairwise.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

// f(first, end) of rows as an argument of kernels, which use nothing of the standard library that is compiled with them.
// Several threads call it at once, for rows of their own.
struct RowsCallback {
  void (*call)(const void*, int64_t, int64_t) = nullptr;
  const void* context = nullptr;
  template <typename F>
  static RowsCallback to(const F& f) {
    return {[](const void* context, int64_t first, int64_t end) { (*static_cast<const F*>(context))(first, end); }, &f};
  }
  bool present() const { return call != nullptr; }
  void operator()(int64_t first, int64_t end) const { call(context, first, end); }
};

template <typename T>
struct PairwiseArgs {
  const T* a;  // [n, d] row stride lda
  int64_t lda, n;
  const T* b;  // [m, d] row stride ldb; equal to a in the symmetric case
  int64_t ldb, m, d;
  const T* scale;              // [1] or [n]
  int64_t scale_step;          // 0 or 1
  const T* bias;               // [1]; sigmoid part only
  const int32_t* ids_a;        // [n] or null: pairs with equal ids are left out
  const int32_t* ids_b;        // [m] or null
  const int64_t* skip_indptr;  // [n + 1] or null: CSR pattern of pairs to leave out, columns ascending
  const int64_t* skip_indices;
  const T* limit;      // [1] or [n] or null: pairs with a_i . b_j > limit_i are left out; softmax part with one scale
  int64_t limit_step;  // 0 or 1
  bool skip_self;      // leave out i == j
  bool symmetric;      // a is b: every tile serves its row block and its column block
  bool columns;        // rectangular case: column statistics (forward) or their gradient (backward) as well
  T* row_lse;          // [n]; sigmoid part: the row sums (forward) or sum_j W_ij (backward)
  T* row_sum;          // [n] or null; backward of the sigmoid part: the row sums as well
  T* col_lse;          // [m] if columns
  const T* grad_row;   // [n]; backward only
  const T* grad_col;   // [m] if columns
  T* grad_a;           // [n, d] contiguous: sum_j W_ij b_j, not yet multiplied by scale_i
  T* grad_b;           // [m, d] contiguous: sum_i W_ij scale_i a_i; unused in the symmetric case, null when it is
                       // not requested
  T* workspace;
  int64_t* kept;         // [1] or null: number of the products that the forward pass kept (simd/kept.h)
  RowsCallback prepare;  // if present, makes rows of a, or row n + j for row j of b, before they are read
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T>
                 int64_t pairwise_workspace(int64_t n, int64_t m, int64_t d, bool symmetric, bool backward);
                 template <typename T> void pairwise_forward(const PairwiseArgs<T>& args);
                 template <typename T> void pairwise_backward(const PairwiseArgs<T>& args);
                 // The statistics and then their gradient; weigh is called in between with rows, or n + j for column
                 // j, whose statistics are known, and fills their grad_row and grad_col.
                 template <typename T>
                 void pairwise_value_and_grad(const PairwiseArgs<T>& args, const RowsCallback& weigh);
                 template <typename T> void pairwise_sigmoid_forward(const PairwiseArgs<T>& args);
                 template <typename T> void pairwise_sigmoid_backward(const PairwiseArgs<T>& args);)

}  // namespace sslspec::cpu

// Shared by the kernels of `gram`: the vectors that describe columns, checks, and sums over slabs of rows.
#pragma once
#include <initializer_list>

#include "gram/cuda/gram.h"
#include "gpu/types.cuh"
#include "rows/cuda/moments.cuh"

namespace sslspec::cuda {

enum ColumnRow {
  kShift = 0,
  kScale = 2,
  kOwnFactor = 4,
  kOtherFactor = 6,
  kDiagonal = 8,
  kColumnRows = 10
};  // of `columns`

template <int kWidth, typename T>
__device__ __forceinline__ Pack<T, kWidth> column_of(const T* columns, int64_t d, int row, int64_t k) {
  Pack<T, kWidth> v;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) v.v[e] = columns[row * d + k + e];
  return v;
}

template <typename T>
struct EntryTerms {  // of a column: what is subtracted from the entry, and what is added in proportion
  T shift, diagonal, own;
};

// Of an entry x of operands that are not scaled, the gradient without the factor from above; `other` of the other operand,
// `partner` what was multiplied.
template <typename T>
__device__ __forceinline__ T entry_gradient(T product, T partner, T x, T other, const EntryTerms<T>& column, T alpha,
                                            T near) {
  const T close = near == T(0) ? T(0) : near * (x - other);
  return alpha * (product - column.diagonal * partner) + (column.own * (x - column.shift) + close);
}

// The slabs of rows with partial column sums of their own.
inline Slabs gram_slabs(int64_t rows, int64_t d) { return Slabs::cut(rows, d, 128); }

// `sums`: a counter of blocks that have ended, pairs of terms, what is subtracted, squared products.
inline constexpr int64_t kCounterSlots = 1;
inline unsigned* gram_counter(const TensorView& sums) { return sums.as<unsigned>(); }

inline void check_block(const char* name, const TensorView& t, std::initializer_list<int64_t> shape, DType dtype,
                        int device) {
  check_dense("gram", name, t, static_cast<int>(shape.size()), shape.begin(), dtype, device);
  int64_t step = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    SSLSPEC_CHECK(t.shape[i] <= 1 || t.stride[i] == step, "gram: ", name, " must be contiguous");
    step *= t.shape[i];
  }
}

inline void check_gram_rows(const TensorView& x, const TensorView& y, const TensorView& columns,
                            const TensorView& workspace) {
  SSLSPEC_CHECK(x.device != kCpu, "gram: x must be on a CUDA device");
  SSLSPEC_CHECK(x.ndim == 2 && x.shape[0] >= 1 && x.shape[1] >= 1, "gram: x must be a matrix that is not empty, got ",
                shape_text(x));
  check_matrix("gram", "x", x, x.shape[0], x.shape[1], x.dtype, x.device);
  if (y.present()) check_matrix("gram", "y", y, x.shape[0], x.shape[1], x.dtype, x.device);
  check_block("columns", columns, {kColumnRows, x.shape[1]}, computed_type(x.dtype), x.device);
  if (workspace.present())
    check_vector("gram", "workspace", workspace, gram_workspace_size(x.shape[0], x.shape[1]), computed_type(x.dtype),
                 x.device);
}

// Both gradients as products with the gradient as their end. kept [2, n, d], float32: the memory of the factors, and of
// the matrices after them, in bfloat16 (GramKept).
void gram_gradients_of_factors(const TensorView (&rows)[2], const GramForm& form, const TensorView& columns,
                               const TensorView& kept, const float* factor, const TensorPair& grads, int64_t stream);

inline void check_sums(const TensorView& sums, int64_t slot, int64_t count, int device) {
  SSLSPEC_CHECK(sums.ndim == 1 && slot >= 0 && slot + count <= sums.shape[0], "gram: sums must have slots ", slot,
                " to ", slot + count, ", got shape ", shape_text(sums));
  check_vector("gram", "sums", sums, sums.shape[0], DType::f64, device);
}

}  // namespace sslspec::cuda

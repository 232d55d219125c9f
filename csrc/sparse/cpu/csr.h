// The sparse operand that `spmm`, `edges` and `graph_cov` share on the CPU: compressed rows, and how its entries are
// weighted on the fly.
#pragma once
#include <cstdint>

namespace sslspec::cpu {

enum class Combine {
  product,  // a_ij * c_j            (a factor r_i is applied to the finished row instead)
  sum,      // a_ij * (r_i + c_j)
};

template <typename T>
struct SparseArgs {
  const int64_t* indptr;  // [n + 1]
  const void* indices;    // [nnz] int32 or int64, ascending in a row
  bool wide;              // indices are int64
  const void* values;     // [nnz] float32 or float64, or null: every entry is 1
  bool precise;           // values are float64
  int64_t n, nnz;
  Combine combine;
  const T* row_scale;  // [n] r, read here for Combine::sum only
  const T* col_scale;  // [columns of A] c, or null: 1
  bool upper;          // only entries j >= i, the diagonal with half its weight: U with U + U^T = A
};

// First row of part t when rows [0, n) are cut into `parts` of about equal cost (entries + rows).
inline int64_t split_rows(const int64_t* indptr, int64_t n, int64_t t, int64_t parts) {
  const int64_t cost = indptr[n] + n;
  // t * cost may pass 2^63 for no graph that fits in memory: parts <= 2^12, cost < 2^50
  const int64_t target = t * cost / parts;
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t mid = low + (high - low) / 2;
    if (indptr[mid] + mid < target)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

}  // namespace sslspec::cpu

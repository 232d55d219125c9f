// Checks of the compressed-row arguments that spmm, edges and graph_cov share.
#pragma once
#include "common/check.h"
#include "sparse/cpu/csr.h"

namespace sslspec {

// The content of the arrays (columns in range, ascending rows) was checked when the graph was made.
template <typename T>
cpu::SparseArgs<T> sparse_arguments(const char* op, const TensorView& indptr, const TensorView& indices,
                                    const TensorView& values) {
  SSLSPEC_CHECK(indptr.ndim == 1 && indptr.shape[0] >= 1, op, ": indptr must be (n + 1,), got ", shape_text(indptr));
  SSLSPEC_CHECK(indices.ndim == 1, op, ": indices must be (nnz,), got ", shape_text(indices));
  SSLSPEC_CHECK(indices.dtype == DType::i32 || indices.dtype == DType::i64, op,
                ": indices must be int32 or int64, got ", indices.dtype);
  const int64_t n = indptr.shape[0] - 1, nnz = indices.shape[0];
  check_vector(op, "indptr", indptr, n + 1, DType::i64, kCpu);
  check_vector(op, "indices", indices, nnz, indices.dtype, kCpu);
  SSLSPEC_CHECK(indptr.as<int64_t>()[0] == 0 && indptr.as<int64_t>()[n] == nnz, op,
                ": indptr must run from 0 to nnz = ", nnz, ", got ", indptr.as<int64_t>()[0], " to ",
                indptr.as<int64_t>()[n]);
  if (values.present()) {
    SSLSPEC_CHECK(values.dtype == DType::f32 || values.dtype == DType::f64, op,
                  ": values must be float32 or float64, got ", values.dtype);
    check_vector(op, "values", values, nnz, values.dtype, kCpu);
  }
  cpu::SparseArgs<T> a{};
  a.indptr = indptr.as<int64_t>(), a.indices = indices.data, a.wide = indices.dtype == DType::i64;
  a.values = values.data, a.precise = values.dtype == DType::f64;
  a.n = n, a.nnz = nnz, a.combine = cpu::Combine::product;
  return a;
}

}  // namespace sslspec

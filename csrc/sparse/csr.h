// The compressed rows that spmm, edges and graph_cov share.
#pragma once
#include "common/check.h"
#include "sparse/cpu/csr.h"

namespace sslspec {

struct CsrView {
  TensorView indptr;   // [n + 1] int64
  TensorView indices;  // [nnz] int32 or int64, ascending in each row
  TensorView values;   // [nnz] float32 or float64, or absent: ones
  static constexpr auto fields() { return std::make_tuple(&CsrView::indptr, &CsrView::indices, &CsrView::values); }

  int64_t n() const { return indptr.shape[0] - 1; }
  int64_t nnz() const { return indices.shape[0]; }
  bool wide() const { return indices.dtype == DType::i64; }
  bool precise() const { return values.dtype == DType::f64; }

  // The content of the arrays (columns in range, ascending rows) was checked when the graph was made.
  void check(const char* op, int device) const {
    SSLSPEC_CHECK(indptr.ndim == 1 && indptr.shape[0] >= 1, op, ": indptr must be (n + 1,), got ", shape_text(indptr));
    SSLSPEC_CHECK(indices.ndim == 1, op, ": indices must be (nnz,), got ", shape_text(indices));
    SSLSPEC_CHECK(indices.dtype == DType::i32 || wide(), op, ": indices must be int32 or int64, got ", indices.dtype);
    check_vector(op, "indptr", indptr, n() + 1, DType::i64, device);
    check_vector(op, "indices", indices, nnz(), indices.dtype, device);
    if (!values.present()) return;
    SSLSPEC_CHECK(values.dtype == DType::f32 || precise(), op, ": values must be float32 or float64, got ",
                  values.dtype);
    check_vector(op, "values", values, nnz(), values.dtype, device);
  }
};

template <typename T>
cpu::SparseArgs<T> sparse_arguments(const char* op, const CsrView& csr) {
  csr.check(op, kCpu);
  const int64_t n = csr.n(), nnz = csr.nnz(), *indptr = csr.indptr.as<int64_t>();
  SSLSPEC_CHECK(indptr[0] == 0 && indptr[n] == nnz, op, ": indptr must run from 0 to nnz = ", nnz, ", got ", indptr[0],
                " to ", indptr[n]);
  cpu::SparseArgs<T> a{};
  a.indptr = indptr, a.indices = csr.indices.data, a.wide = csr.wide();
  a.values = csr.values.data, a.precise = csr.precise();
  a.n = n, a.nnz = nnz, a.combine = cpu::Combine::product;
  return a;
}

}  // namespace sslspec

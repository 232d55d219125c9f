// Compressed rows as device pointers, read by one group of lanes per row.
#pragma once
#include <cstdint>

#include "gpu/launch.h"
#include "gpu/reduce.cuh"

namespace sslspec::cuda {

struct Sparse {
  const int64_t* indptr;
  const void* indices;
  const void* values;  // or null: ones
  bool wide, precise;  // int64 indices, float64 values
  int64_t n;

  __device__ __forceinline__ int64_t column(int64_t e) const {
    return wide ? static_cast<const int64_t*>(indices)[e] : static_cast<const int32_t*>(indices)[e];
  }
  template <typename T>
  __device__ __forceinline__ T value(int64_t e) const {
    if (values == nullptr) return T(1);
    return precise ? static_cast<T>(static_cast<const double*>(values)[e])
                   : static_cast<T>(static_cast<const float*>(values)[e]);
  }
};

inline Sparse sparse_of(const char* op, const TensorView& indptr, const TensorView& indices, const TensorView& values,
                        int device) {
  SSLSPEC_CHECK(device != kCpu, op, ": x must be on a CUDA device");
  SSLSPEC_CHECK(indptr.ndim == 1 && indptr.shape[0] >= 1, op, ": indptr must be (n + 1,), got ", shape_text(indptr));
  SSLSPEC_CHECK(indices.ndim == 1, op, ": indices must be (nnz,), got ", shape_text(indices));
  SSLSPEC_CHECK(indices.dtype == DType::i32 || indices.dtype == DType::i64, op,
                ": indices must be int32 or int64, got ", indices.dtype);
  check_vector(op, "indptr", indptr, indptr.shape[0], DType::i64, device);
  check_vector(op, "indices", indices, indices.shape[0], indices.dtype, device);
  if (values.present()) {
    SSLSPEC_CHECK(values.dtype == DType::f32 || values.dtype == DType::f64, op,
                  ": values must be float32 or float64, got ", values.dtype);
    check_vector(op, "values", values, indices.shape[0], values.dtype, device);
  }
  return {indptr.as<int64_t>(),       indices.data,       values.data, indices.dtype == DType::i64,
          values.dtype == DType::f64, indptr.shape[0] - 1};
}

}  // namespace sslspec::cuda

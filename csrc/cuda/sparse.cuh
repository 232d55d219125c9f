// Compressed rows as device pointers, read by one group of lanes per row.
#pragma once
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"

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

// kWidth neighbouring elements, moved by one access (16 bytes when kWidth is that wide).
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T v[kWidth];
};

// May rows of t be read in packs of `width` elements?
inline bool packs(const TensorView& t, int64_t width) {
  const int64_t size = t.dtype == DType::f64 ? 8 : t.dtype == DType::f16 || t.dtype == DType::bf16 ? 2 : 4;
  return !t.present() || (reinterpret_cast<uintptr_t>(t.data) % (width * size) == 0 && t.stride[0] % width == 0 &&
                          t.shape[1] % width == 0);
}

}  // namespace sslspec::cuda

// Compressed rows as device pointers, read by one group of lanes per row.
#pragma once
#include <cstdint>

#include "gpu/launch.h"
#include "gpu/reduce.cuh"
#include "sparse/csr.h"

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

inline Sparse sparse_of(const char* op, const CsrView& a, int device) {
  SSLSPEC_CHECK(device != kCpu, op, ": x must be on a CUDA device");
  a.check(op, device);
  return {a.indptr.as<int64_t>(), a.indices.data, a.values.data, a.wide(), a.precise(), a.n()};
}

}  // namespace sslspec::cuda

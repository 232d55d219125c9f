// What the primitives of this folder ask of their arrays.
#pragma once
#include "common/check.h"

namespace sslspec {

// Rows of several views, [views, n, d] with n, d >= 1, contiguous in the last dimension.
inline void check_views(const char* op, const TensorView& z) {
  SSLSPEC_CHECK(z.ndim == 3 && z.shape[1] >= 1 && z.shape[2] >= 1, op, ": z must be (views, n, d) with n, d >= 1, got ",
                shape_text(z));
  check_dense(op, "z", z, 3, z.shape, z.dtype, kCpu);
}

inline void check_contiguous(const char* op, const char* name, const TensorView& t, int ndim, const int64_t* shape,
                             DType dtype, int device = kCpu) {
  check_dense(op, name, t, ndim, shape, dtype, device);
  int64_t size = 1;
  for (int i = ndim - 1; i >= 0; size *= t.shape[i--])
    SSLSPEC_CHECK(t.shape[i] <= 1 || t.stride[i] == size, op, ": ", name, " must be contiguous");
}

}  // namespace sslspec

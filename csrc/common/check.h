// The only exceptions that the core throws, and the checks that guard memory safety.
// What a user can get wrong is checked, with the words of the API, in Python; a failure here names the same facts.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/tensor_view.h"

namespace sslspec {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string text(const char* s) { return s; }
inline std::string text(const std::string& s) { return s; }
inline std::string text(DType d) {
  static const char* const names[] = {"float32", "float64", "float16", "bfloat16", "int32", "int64"};
  return names[static_cast<int>(d)];
}
template <typename T>
std::string text(T number) {
  return std::to_string(number);
}
inline std::string shape_text(const TensorView& t) {
  std::string s = "(";
  for (int i = 0; i < t.ndim; ++i) s += (i ? ", " : "") + std::to_string(t.shape[i]);
  return s + (t.ndim == 1 ? ",)" : ")");
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::string message;
  ((message += text(parts)), ...);
  throw std::invalid_argument(message);
}

#define SSLSPEC_CHECK(condition, ...)               \
  do {                                              \
    if (!(condition)) ::sslspec::fail(__VA_ARGS__); \
  } while (0)

// A dense matrix or vector of the expected shape, dtype and device whose last dimension is contiguous. The strides of
// an empty one mean nothing: those of numpy are 0, and torch calls any contiguous.
inline void check_dense(const char* op, const char* name, const TensorView& t, int ndim, const int64_t* shape,
                        DType dtype, int device) {
  SSLSPEC_CHECK(t.ndim == ndim, op, ": ", name, " must have ", ndim, " dimensions, got ", t.ndim);
  bool empty = false;
  for (int i = 0; i < ndim; ++i) {
    empty = empty || shape[i] == 0;
    SSLSPEC_CHECK(t.shape[i] == shape[i], op, ": ", name, " must have size ", shape[i], " in dimension ", i,
                  ", got shape ", shape_text(t));
  }
  SSLSPEC_CHECK(t.dtype == dtype, op, ": ", name, " must be ", dtype, ", got ", t.dtype);
  SSLSPEC_CHECK(t.device == device, op, ": ", name, " must be on device ", device, ", got ", t.device);
  SSLSPEC_CHECK(ndim == 0 || empty || t.shape[ndim - 1] <= 1 || t.stride[ndim - 1] == 1, op, ": ", name,
                " must be contiguous in its last dimension, got stride ", t.stride[ndim ? ndim - 1 : 0]);
}
inline void check_matrix(const char* op, const char* name, const TensorView& t, int64_t rows, int64_t cols, DType dtype,
                         int device) {
  const int64_t shape[2] = {rows, cols};
  check_dense(op, name, t, 2, shape, dtype, device);
}
inline void check_vector(const char* op, const char* name, const TensorView& t, int64_t n, DType dtype, int device) {
  check_dense(op, name, t, 1, &n, dtype, device);
}

}  // namespace sslspec

// Run-time values -> template arguments, once for the whole core.
#pragma once
#include "common/check.h"

namespace sslspec {

template <typename T>
struct Type {
  using type = T;
};

// f(Type<float>) or f(Type<double>)
template <typename F>
void dispatch_float(const char* op, DType dtype, F&& f) {
  if (dtype == DType::f32) return f(Type<float>{});
  if (dtype == DType::f64) return f(Type<double>{});
  fail(op, ": the CPU kernels take float32 or float64, got ", dtype);
}

// f(Type<int32_t>) or f(Type<int64_t>)
template <typename F>
void dispatch_index(const char* op, DType dtype, F&& f) {
  if (dtype == DType::i32) return f(Type<int32_t>{});
  if (dtype == DType::i64) return f(Type<int64_t>{});
  fail(op, ": indices must be int32 or int64, got ", dtype);
}

}  // namespace sslspec

// Neighbouring elements of a row that one access moves.
#pragma once
#include <cstdint>

#include "common/tensor_view.h"

namespace sslspec::cuda {

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

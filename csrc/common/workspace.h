// Memory that the caller lends a CPU kernel.
#pragma once
#include "common/tensor_view.h"
#include "simd/huge_pages.h"

namespace sslspec {

// A vector, on huge pages where it is large enough to hold some.
template <typename T>
T* lent(const TensorView& memory) {
  const int64_t bytes = memory.shape[0] * int64_t{sizeof(T)};
  if (bytes >= 4 * cpu::kHugePage) cpu::prefer_huge_pages(memory.data, bytes);
  return memory.as<T>();
}

}  // namespace sslspec

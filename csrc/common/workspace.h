// Memory that the caller lends a CPU kernel to write to.
#pragma once
#include "common/tensor_view.h"

namespace sslspec {

// Asks the system for pages of 2 MiB inside [data, data + bytes) where that is 8 MiB or more, for pages that are touched
// from now on: a wish, which changes nothing where it is not granted. With small pages fresh memory is mapped piece by
// piece, and a pass over operands of some MiB waits for the address of every page.
void prefer_huge_pages(void* data, int64_t bytes);

// A contiguous array that the caller has made for this call, a workspace or a result: nothing has been written to it.
template <typename T>
T* lent(const TensorView& memory) {
  int64_t bytes = sizeof(T);
  for (int i = 0; i < memory.ndim; ++i) bytes *= memory.shape[i];
  prefer_huge_pages(memory.data, bytes);
  return memory.as<T>();
}

}  // namespace sslspec

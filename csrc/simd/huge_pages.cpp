#include "simd/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sslspec::cpu {

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  const auto page = static_cast<uintptr_t>(kHugePage), start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (start + page - 1) / page * page, end = (start + static_cast<uintptr_t>(bytes)) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace sslspec::cpu

// Pages of 2 MiB for memory that a kernel walks through. With small pages a pass over operands of some MiB looks up a page
// every few hundred cycles, and fresh memory is mapped page by page.
#pragma once
#include <cstdint>

namespace sslspec::cpu {

constexpr int64_t kHugePage = int64_t{2} << 20;

// Asks the system for them inside [data, data + bytes), for pages that are touched from now on: a wish, which changes
// nothing where it is not granted.
void prefer_huge_pages(void* data, int64_t bytes);

}  // namespace sslspec::cpu

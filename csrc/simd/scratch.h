// Per-thread scratch memory of bounded size (a few cache-sized tiles), reused between calls so that a small problem
// does not pay for page faults. Slots keep nested users apart.
#pragma once
#include <cstddef>

namespace sslspec::cpu {

void* scratch(int slot, size_t bytes);  // 64-byte aligned, valid until the same thread asks the same slot for more

}  // namespace sslspec::cpu

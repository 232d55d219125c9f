// Per-thread scratch memory of bounded size (a few cache-sized tiles), reused between calls so that a small problem
// does not pay for page faults. Slots keep nested users apart. SSLSPEC_SCRATCH=nan in the environment fills it with NaN at
// every call: a number that a kernel reads before it wrote it then shows in the results. The tests run so.
#pragma once
#include <cstddef>

namespace sslspec::cpu {

void* scratch(int slot, size_t bytes);  // 64-byte aligned, valid until the same thread asks the same slot for more

}  // namespace sslspec::cpu

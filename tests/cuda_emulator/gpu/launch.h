// Host stand-in for csrc/gpu/launch.h: a launch runs the kernel at once.
#pragma once
#include <cuda_runtime.h>

#include <cstdlib>

#include "common/check.h"

namespace sslspec::cuda {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
};
inline int capability_major() { return 9; }
inline int shared_limit() {
  const char* less = std::getenv("SSLSPEC_EMULATE_SHARED");
  return less == nullptr ? 232448 : std::atoi(less);
}
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, int threads, size_t shared, int64_t,
            const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > static_cast<size_t>(shared_limit())) throw CudaError("more shared memory than a block may have");
  emulator::launches().push_back(name);
  emulator::run(grid, threads, shared, [&] { kernel(args...); });
}

}  // namespace sslspec::cuda

// Host side of every launch: error checks, device guard, launch with dynamic shared memory. Included by .cu files only.
// Nothing here allocates or synchronises, so everything may run under CUDA-graph capture.
#pragma once
#include <cuda_runtime.h>

#include "common/check.h"

namespace sslspec::cuda {

[[noreturn]] inline void fail_cuda(cudaError_t error, const char* what) {
  std::string message = std::string(what) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")";
  if (error == cudaErrorNoKernelImageForDevice) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    message = std::string(what) + ": no kernel image for sm_" + std::to_string(major) + std::to_string(minor) +
              "; this build has " SSLSPEC_CUDA_ARCHS
              ", rebuild with SSLSPEC_CUDA_ARCHS (python -m sslspec_fast shows it)";
  }
  cudaGetLastError();  // reported here: the next launch must not report it again
  throw CudaError(message);
}

#define SSLSPEC_CUDA_CHECK(expression)                                          \
  do {                                                                          \
    const cudaError_t error_ = (expression);                                    \
    if (error_ != cudaSuccess) ::sslspec::cuda::fail_cuda(error_, #expression); \
  } while (0)

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    SSLSPEC_CUDA_CHECK(cudaGetDevice(&previous_));
    changed_ = previous_ != device;
    if (changed_) SSLSPEC_CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Largest dynamic shared memory of one block on the current device, in bytes.
inline int shared_limit() {
  int device = 0, bytes = 0;
  SSLSPEC_CUDA_CHECK(cudaGetDevice(&device));
  SSLSPEC_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

inline int capability_major() {
  int device = 0, major = 0;
  SSLSPEC_CUDA_CHECK(cudaGetDevice(&device));
  SSLSPEC_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major;
}

// stream: the handle that torch or CuPy gave, as an integer
inline cudaStream_t as_stream(int64_t stream) { return reinterpret_cast<cudaStream_t>(stream); }

template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, int threads, size_t shared, int64_t stream,
            const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 * 1024)
    SSLSPEC_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  kernel<<<grid, threads, shared, as_stream(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) fail_cuda(error, name);
}

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace sslspec::cuda

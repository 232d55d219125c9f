// Check, initialise and launch a CUTLASS GEMM that needs no workspace. Included by the Hopper kernels only.
#pragma once
#include <cutlass/cutlass.h>

#include <string>

#include "gpu/launch.h"

namespace sslspec::cuda {

inline void check_cutlass(cutlass::Status status, const char* kernel, const char* what) {
  if (status != cutlass::Status::kSuccess)
    throw CudaError(std::string(kernel) + ": " + what + ": " + cutlassGetStatusString(status));
}

// `arguments` lack only the hardware; `kernel` names it in errors. can_implement is not called: it requires extents at
// multiples of 16 bytes, where TMA needs strides and addresses there, which the callers have checked.
template <typename Gemm>
void launch_cutlass(const char* kernel, typename Gemm::Arguments& arguments, int device, int64_t stream) {
  arguments.hw_info.device_id = device;
  SSLSPEC_CUDA_CHECK(cudaDeviceGetAttribute(&arguments.hw_info.sm_count, cudaDevAttrMultiProcessorCount, device));
  Gemm gemm;
  SSLSPEC_CHECK(Gemm::get_workspace_size(arguments) == 0, kernel, ": this schedule needs no workspace");
  check_cutlass(gemm.initialize(arguments, nullptr, as_stream(stream)), kernel, "initialize");
  check_cutlass(gemm.run(as_stream(stream)), kernel, "launch");
  SSLSPEC_CUDA_CHECK(cudaGetLastError());
}

}  // namespace sslspec::cuda

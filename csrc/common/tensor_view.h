// Borrowed descriptors of arrays that the caller owns. Nothing here allocates or frees.
#pragma once
#include <cstdint>
#include <tuple>

namespace sslspec {

enum class DType : int32_t { f32 = 0, f64 = 1, f16 = 2, bf16 = 3, i32 = 4, i64 = 5 };

inline constexpr int kMaxDim = 4;
inline constexpr int kCpu = -1;  // device index of host memory; CUDA devices are 0, 1, ...

struct TensorView {
  void* data = nullptr;
  int64_t shape[kMaxDim] = {};
  int64_t stride[kMaxDim] = {};  // in elements
  int32_t ndim = 0;
  DType dtype = DType::f32;
  int32_t device = kCpu;

  bool present() const { return ndim > 0 || data != nullptr; }  // false: the optional argument was None
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Arguments that always travel together are a struct. `fields()` lists its members in the order in which Python gives
// them, as a tuple (tensor_caster.h).

// One array for each of two operands; the second may be absent.
struct TensorPair {
  TensorView first, second;
  static constexpr auto fields() { return std::make_tuple(&TensorPair::first, &TensorPair::second); }
};

// Where a CPU kernel works: in scratch memory of the caller, on so many threads.
struct Run {
  TensorView workspace;
  int threads = 1;
  static constexpr auto fields() { return std::make_tuple(&Run::workspace, &Run::threads); }
};

namespace cuda {

// Where a CUDA kernel works: in scratch memory of the caller, on a stream (its handle as an integer).
struct Run {
  TensorView workspace;
  int64_t stream = 0;
  static constexpr auto fields() { return std::make_tuple(&Run::workspace, &Run::stream); }
};

}  // namespace cuda

}  // namespace sslspec

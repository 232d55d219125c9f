// Stands in for the toolkit's header when the .cu files are compiled for the host: just enough of the language to run
// a kernel thread by thread. See emulator.h.
#pragma once
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__

#include "emulator.h"

#define threadIdx (::emulator::thread_index())
#define blockIdx (::emulator::block_index())
#define blockDim (::emulator::block_size())
#define gridDim (::emulator::grid_size())

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  return a < b ? a : b;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}

inline double __longlong_as_double(long long x) {
  double y;
  std::memcpy(&y, &x, 8);
  return y;
}
inline float __int_as_float(int x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline unsigned atomicAdd(unsigned* p, unsigned value) {  // blocks run one after the other
  const unsigned before = *p;
  *p += value;
  return before;
}
inline void __threadfence() {}
inline float __fdividef(float a, float b) { return a / b; }
inline void __syncthreads() { ::emulator::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { ::emulator::warp_barrier(); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return ::emulator::exchange(value, ::emulator::lane() ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return ::emulator::exchange(value, source);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int delta) {
  const int from = ::emulator::lane() + delta;
  return ::emulator::exchange(value, from < 32 ? from : ::emulator::lane());
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  const int mine = vote;
  const unsigned char* votes = ::emulator::publish(&mine, sizeof(mine));
  unsigned all = 0;
  for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(votes[128 * lane]) << lane;
  return all;
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}

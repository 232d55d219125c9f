// Reductions in a fixed order: shuffles inside a warp, shared memory between warps, no atomics.
#pragma once

namespace sslspec::cuda {

// max that keeps NaN, so that a bad input is seen
template <typename T>
__device__ __forceinline__ T max_nan(T a, T b) {
  return a > b || a != a ? a : b;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

template <typename T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = max_nan(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

// A sum of many terms that keeps what its additions round off (Kahan): for rows of any degree.
template <typename T>
struct LongSum {
  T total = 0, excess = 0;
  __device__ __forceinline__ void add(T x) {
    const T y = x - excess, next = total + y;
    excess = (next - total) - y;
    total = next;
  }
};

// Over the four lanes that share an accumulator row.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Over the eight lanes that share an accumulator column.
__device__ __forceinline__ float column_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 4);
  x += __shfl_xor_sync(0xffffffffu, x, 8);
  return x + __shfl_xor_sync(0xffffffffu, x, 16);
}
__device__ __forceinline__ float column_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 4));
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 8));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 16));
}

// Over a block of kWarps warps; every thread gets the result. slots: kWarps values of shared memory.
template <int kWarps, typename T>
__device__ __forceinline__ T block_sum(T x, T* slots) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
  __syncthreads();
  T total = slots[0];
  for (int w = 1; w < kWarps; ++w) total += slots[w];
  __syncthreads();
  return total;
}
template <int kWarps, typename T>
__device__ __forceinline__ T block_max(T x, T* slots) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
  __syncthreads();
  x = slots[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) x = max_nan(x, slots[w]);
  __syncthreads();
  return x;
}

// Whether all other blocks of the grid have ended: in the block that ends last, which sees what thread 0 of the others
// wrote before if it reads past L1 (volatile). All threads call it; *counter is 0 at first.
__device__ __forceinline__ bool ends_last(unsigned* counter) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  return last;
}

}  // namespace sslspec::cuda

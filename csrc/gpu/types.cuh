// Rows of any float type, computed with in float (double for double).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "common/dispatch.h"
#include "gpu/launch.h"
#include "gpu/pack.cuh"
#include "gpu/reduce.cuh"

namespace sslspec::cuda {

template <typename In>
struct Computed {
  using type = float;
};
template <>
struct Computed<double> {
  using type = double;
};

__device__ __forceinline__ float widened(float x) { return x; }
__device__ __forceinline__ double widened(double x) { return x; }
__device__ __forceinline__ float widened(__half x) { return __half2float(x); }
__device__ __forceinline__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Out>
__device__ __forceinline__ Out narrowed(typename Computed<Out>::type x) {
  return x;
}
template <>
__device__ __forceinline__ __half narrowed<__half>(float x) {
  return __float2half(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrowed<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}

// kWidth elements at p, one access
template <int kWidth, typename In>
__device__ __forceinline__ Pack<typename Computed<In>::type, kWidth> load_wide(const In* p) {
  const Pack<In, kWidth> raw = *reinterpret_cast<const Pack<In, kWidth>*>(p);
  Pack<typename Computed<In>::type, kWidth> out;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) out.v[e] = widened(raw.v[e]);
  return out;
}

template <typename Out, int kWidth>
__device__ __forceinline__ void store_narrow(Out* p, const Pack<typename Computed<Out>::type, kWidth>& x) {
  Pack<Out, kWidth> raw;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) raw.v[e] = narrowed<Out>(x.v[e]);
  *reinterpret_cast<Pack<Out, kWidth>*>(p) = raw;
}

inline DType computed_type(DType type) { return type == DType::f64 ? DType::f64 : DType::f32; }  // of what is computed

// A tensor's dtype as a type: f(Type<float>{}) and so on.
template <typename F>
void dispatch_rows(const char* op, DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f(Type<double>{});
    case DType::f32:
      return f(Type<float>{});
    case DType::f16:
      return f(Type<__half>{});
    case DType::bf16:
      return f(Type<__nv_bfloat16>{});
    default:
      fail(op, ": rows must be float64, float32, float16 or bfloat16, got ", dtype);
  }
}

}  // namespace sslspec::cuda

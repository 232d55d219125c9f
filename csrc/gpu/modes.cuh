// Arithmetic modes: how 32 bytes of operand rows are multiplied on tensor cores.
#pragma once
#include "gpu/mma_sm80.cuh"

namespace sslspec::cuda {

struct Bf16 {  // bfloat16 data, fp32 accumulation
  using Elem = __nv_bfloat16;
  struct Operand4 {
    uint32_t v[4];
  };
  __device__ static __forceinline__ Operand4 operand(const uint32_t (&raw)[4]) {
    return {{raw[0], raw[1], raw[2], raw[3]}};
  }
  // a: 16 rows of A; b: two 8-row tiles of B, tile h in words 2h and 2h + 1
  __device__ static __forceinline__ void multiply(float (&c)[4], const Operand4& a, const Operand4& b, int h) {
    mma_bf16(c, a.v, b.v[2 * h], b.v[2 * h + 1]);
  }
};

struct Tf32 {  // float data rounded to tf32, fp32 accumulation
  using Elem = float;
  struct Operand4 {
    uint32_t v[4];
  };
  __device__ static __forceinline__ Operand4 operand(const uint32_t (&raw)[4]) {
    Operand4 x;
#pragma unroll
    for (int i = 0; i < 4; ++i) x.v[i] = to_tf32(__uint_as_float(raw[i]));
    return x;
  }
  __device__ static __forceinline__ void multiply(float (&c)[4], const Operand4& a, const Operand4& b, int h) {
    mma_tf32(c, a.v, b.v[2 * h], b.v[2 * h + 1]);
  }
};

// float = big + small in tf32; the product small * small (2^-22 relative) is left out. Tensor cores truncate what they
// add up, and always downwards: a sum over k as long as a row, or over all rows, would be 10 times less exact than
// float32. So they add up the eight terms of one step, and float32 arithmetic, which rounds to nearest, adds up the
// steps.
struct Tf32x3 {
  using Elem = float;
  struct Operand4 {
    uint32_t big[4], small[4];
  };
  __device__ static __forceinline__ Operand4 operand(const uint32_t (&raw)[4]) {
    Operand4 x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = __uint_as_float(raw[i]);
      x.big[i] = to_tf32(value);
      const float rest = value - __uint_as_float(x.big[i]);
      x.small[i] = to_tf32(rest == rest ? rest : 0.0f);  // inf - inf must not turn inf into NaN here
    }
    return x;
  }
  __device__ static __forceinline__ void multiply(float (&c)[4], const Operand4& a, const Operand4& b, int h) {
    float sum[4] = {};
    mma_tf32(sum, a.small, b.big[2 * h], b.big[2 * h + 1]);
    mma_tf32(sum, a.big, b.small[2 * h], b.small[2 * h + 1]);
    mma_tf32(sum, a.big, b.big[2 * h], b.big[2 * h + 1]);
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] += sum[i];
  }
};

}  // namespace sslspec::cuda

// Tensor-core fragments of sm_80 (mma.sync, ldmatrix) and the fast exponential.
//
// With g = lane / 4 and t = lane % 4, the 16 x 8 accumulator holds c[0], c[1] = C[g][2t, 2t+1] and
// c[2], c[3] = C[g + 8][2t, 2t+1]. Operands are 16 rows by 32 bytes (16 bf16 or 8 tf32); ldmatrix moves both alike,
// because a row of an 8 x 8 matrix of 16-bit words is 16 bytes either way.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

#include "gpu/copy.cuh"

namespace sslspec::cuda {

// Four 8 x 16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8. r[q]: 32-bit word t of row g of
// matrix q.
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same with each 8 x 8 matrix of 16-bit words transposed: r[q] = words (2t, g) and (2t + 1, g) of matrix q.
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Nearest tf32 (10 mantissa bits) of a float, as the bits that the tensor core reads.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
  return bits & 0xffffe000u;  // the rest is unspecified
}

// 2^x, relative error 2^-22; results below 2^-126 are 0
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace sslspec::cuda

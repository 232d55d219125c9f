// CPU entry points of the spectral contrastive loss of two views; see csrc/fused/spectral_contrastive.h for the
// mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

struct Bfloat16;  // simd/bfloat16.h

template <typename T, typename Value = T>
struct SpectralContrastiveArgs {
  const Value* z[2];  // [n, d] row stride ldz
  int64_t ldz[2];
  int64_t n, d;
  double longest;                // of a row
  double attraction, repulsion;  // factors of the two sums in the gradient
  double* value;                 // [2]: the two sums
  T* grad[2];                    // [n, d] contiguous, or null: not requested
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> int64_t spectral_contrastive_workspace(int64_t n, int64_t d);
                 template <typename T> void spectral_contrastive(const SpectralContrastiveArgs<T>& args);)

// Products of rows rounded to bfloat16. Only where `bf16_products()` (simd/isa.h).
SSLSPEC_EACH_BF16_ISA(void spectral_contrastive_bf16(const SpectralContrastiveArgs<float>& args);
                      void spectral_contrastive_bf16(const SpectralContrastiveArgs<float, Bfloat16>& args);)

}  // namespace sslspec::cpu

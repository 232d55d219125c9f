// The spectral contrastive loss of float rows that are rounded to bfloat16 as they are packed; the algorithm is in
// spectral.h.
#include "fused/cpu/spectral.h"
#include "simd/bf16/pairs.h"

namespace sslspec::cpu::SSLSPEC_ISA {

void spectral_contrastive_bf16(const SpectralContrastiveArgs<float>& args) { Spectral<Pairs>(args).run(); }
void spectral_contrastive_bf16(const SpectralContrastiveArgs<float, Bfloat16>& args) {
  Spectral<Pairs, Bfloat16>(args).run();
}

}  // namespace sslspec::cpu::SSLSPEC_ISA

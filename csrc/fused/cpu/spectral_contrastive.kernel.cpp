// The spectral contrastive loss in float and double; the algorithm is in spectral.h.
#include "fused/cpu/spectral.h"

namespace sslspec::cpu::SSLSPEC_ISA {

template <typename T>
int64_t spectral_contrastive_workspace(int64_t n, int64_t d) {
  SpectralContrastiveArgs<T> args{};
  args.n = n, args.d = d, args.longest = 1;
  return Spectral<SpectralProducts<Exact<T>>>(args).size;
}
template <typename T>
void spectral_contrastive(const SpectralContrastiveArgs<T>& args) {
  Spectral<SpectralProducts<Exact<T>>>(args).run();
}

template int64_t spectral_contrastive_workspace<float>(int64_t, int64_t);
template int64_t spectral_contrastive_workspace<double>(int64_t, int64_t);
template void spectral_contrastive<float>(const SpectralContrastiveArgs<float>&);
template void spectral_contrastive<double>(const SpectralContrastiveArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// The spectral contrastive loss of float rows that are rounded to bfloat16 as they are packed; the algorithm is in
// spectral.h.
#include "fused/cpu/spectral.h"
#include "simd/bf16/pairs.h"
#include "simd/bf16/tile_cells.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

#ifdef __AMX_TILE__
struct TileProducts {
  using Op = Pairs;
  using T = float;
  static constexpr int64_t kChunk = 2 * Wide<T>::kDepth, kPanels = 4;
  static constexpr int64_t kPair = 2 * kTileSide;

  static void square(const T* x, int64_t width, int64_t steps, int64_t c, int64_t d, T* out) {
    const TileRegisters registers(steps % kTileSide);
    const int64_t end = min64(d, c + Wide<T>::kCols);
    alignas(64) T left[kChunk / kPair * kTileFloats];
    for (int64_t i = 0; i < end; i += kTileSide) {
      left_tiles({x + i, width}, steps, left);
      for (int64_t j = 0; j < min64(Wide<T>::kCols, d - c); j += kPair)
        add_cell<2>({left, kTileSide, kTileFloats}, {x + c + j, width}, steps, out + i * width + j, width, end - i,
                    kPair);
    }
  }
  static void times(const T* x, int64_t width, int64_t rows, const T* b, int64_t steps, T* out, int64_t d) {
    constexpr int64_t kCols = Wide<T>::kCols;
    const TileRegisters registers(steps % kTileSide);
    for (int64_t c = 0; c < d; c += kPair)
      for (int64_t i = 0; i < rows; i += kTileSide)
        add_cell<2>({x + i * width, width, kTileSide}, {b + c / kCols * kCols * steps + c % kCols, kCols}, steps,
                    out + i * d + c, d, rows - i, d - c);
  }
};
using Bf16Products = TileProducts;
#else
using Bf16Products = SpectralProducts<Pairs>;
#endif

}  // namespace

void spectral_contrastive_bf16(const SpectralContrastiveArgs<float>& args) { Spectral<Bf16Products>(args).run(); }
void spectral_contrastive_bf16(const SpectralContrastiveArgs<float, Bfloat16>& args) {
  Spectral<Bf16Products, Bfloat16>(args).run();
}

}  // namespace sslspec::cpu::SSLSPEC_ISA

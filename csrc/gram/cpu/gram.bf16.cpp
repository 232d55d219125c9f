// `gram` of float rows that are rounded to bfloat16 when they are packed; the algorithm is in squares.h.
#include "gram/cpu/squares.h"
#include "gram/cpu/tile_cells.h"
#include "simd/bf16/pairs.h"

namespace sslspec::cpu::SSLSPEC_ISA {

#ifdef __AMX_TILE__
using Bf16Cells = TileCells;
#else
using Bf16Cells = Cells<Pairs>;
#endif

int64_t gram_bf16_workspace(int64_t n, int64_t d, int operands, bool cross, bool dual) {
  return Layout<Pairs>(nullptr, n, d, operands, cross, dual).size;
}
void gram_bf16(const GramArgs<float>& args) { Squares<Bf16Cells>(args).run(); }
void gram_bf16(const GramArgs<float, Bfloat16>& args) { Squares<Bf16Cells, Bfloat16>(args).run(); }

}  // namespace sslspec::cpu::SSLSPEC_ISA

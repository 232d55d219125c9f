// Blocks of `pairwise` for rows in bfloat16, on processors that multiply it.
//
// Precision policy: logits, exponentials and statistics are float. W is rounded to bfloat16 for the second product, as
// on a GPU (relative 2^-9, and the gradient is bfloat16).
#pragma once
#include "pairwise/cpu/bf16.h"
#include "pairwise/cpu/panels.h"
#include "simd/bf16/pair_operands.h"
#include "simd/bf16/tile_operands.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

#ifdef __AMX_TILE__
using Bf16Operands = TileOperands;
#else
using Bf16Operands = PairOperands;
#endif

struct Bf16Panels : PairwiseBlocks<Bf16Operands> {
  static constexpr bool kScaled = false;
  const float* row_scale = nullptr;  // of each row, padded; null: logit_scale is that of all

  Bf16Panels(const PairwiseBf16Args& q, Pass pass) : PairwiseBlocks(q, pass) {
    logit_scale = p.scale[0];
    const OperandSide left = p.symmetric ? OperandSide::both : OperandSide::left;
    pack(
        [&](int64_t r0, int64_t r1) {
          const RowRange part{r0, r1, round_up(p.n, 192)};
          if (gradient && (p.symmetric || p.grad_b != nullptr))
            pack_by_columns(q.half_a, p.lda, part, p.n, p.d, w.a_columns);
          return pack_by_rows(q.half_a, p.lda, part, p.d, w.a_panels, left);
        },
        [&](int64_t r0, int64_t r1) {
          const RowRange part{r0, r1, round_up(p.m, 192)};
          if (gradient) pack_by_columns(q.half_b, p.ldb, part, p.m, p.d, w.b_columns);
          return pack_by_rows(q.half_b, p.ldb, part, p.d, w.b_panels, OperandSide::right);
        });
    // the weight beside an odd last one is multiplied as well: it must come out as 0
    const int64_t rows_left = round_up(p.n, 192) - p.n, cols_left = round_up(p.m, 192) - p.m;
    zero(w.row_shift + p.n, rows_left), zero(w.row_weight + p.n, rows_left);
    zero(w.col_shift + p.m, cols_left), zero(w.col_weight + p.m, cols_left);
    if (p.scale_step == 0) return;
    for (int64_t i = 0; i < p.n; ++i) w.row_weight[i] = p.scale[i];
    row_scale = w.row_weight;
  }
};

}  // namespace
}  // namespace sslspec::cpu::SSLSPEC_ISA

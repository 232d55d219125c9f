// The kernels of `pairwise` for Hopper, this folder, built where CUTLASS headers are found. The *_sm90a.cu files use what
// compute capability 9.0 alone has; the emulator runs all others. They take bfloat16 rows and no scale by column.
#pragma once
#include <cstdint>

#include "pairwise/cuda/kernels.h"

namespace sslspec::cuda {

// W_ij = x_factor_i 2^(c_i s_ij - x_shift_i) + y_factor_j 2^(c_i s_ij - y_shift_j), s = X Y^T, in bfloat16, or
// x_factor_i sigmoid((c_i s_ij - x_shift_i) ln 2). Left-out pairs are not handled.
inline constexpr float kOneExponential = 0, kTwoExponentials = 1, kSigmoid = 2;
struct HopperWeights {
  const void *x, *y;  // [rows, d], [m, d] bfloat16, 16-byte aligned rows
  int64_t ldx, ldy;   // in elements
  int rows, m, d;
  const float *c, *x_factor, *x_shift;  // [rows]
  const float *y_factor, *y_shift;      // [m] or null: no column part
  const float* kind;                    // one of the above: one exponential serves where both shifts are equal
  void* out;                            // [rows, m], pitch a multiple of 8
  int64_t pitch;
  int device;
  int64_t stream;
};

void pairwise_weights_sm90a(const HopperWeights& p);

// The weights of wide rows as pairwise_weights takes them: vectors for the kernel above, which leaves no pairs out.
void hopper_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w);

// The first visit of pairwise_exponentials, pairs (i, i) left out or none.
void pairwise_exponentials_sm90a(const PairwiseProblem& p, const WeightRows& w, float* workspace);

// The sigmoid loss of bfloat16 rows, arguments as of pairwise_sigmoid; x: of the whole problem.
void pairwise_sigmoid_sm90a(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums);

// Statistics of wide rows: over tiles of 128 x 128 (tile_sums.cuh), rows row0 .. row0 + rows against columns col0 .. m.
struct HopperStatistics {
  int64_t row0, col0;    // multiples of 128
  int rows;              // a multiple of 128, or as far as the last row
  const float* bias;     // sigmoid, rows only
  Partial* row_sums;     // [tiles of these columns, rows]
  Partial* column_sums;  // [tiles of these rows, m - col0], or null
  int64_t col_begin;     // where they begin: those before it are not written
};

void pairwise_statistics_sm90a(const PairwiseProblem& p, const HopperStatistics& out);

// The same of all rows, by chunks; row_sums: [hopper_statistics_size].
int64_t hopper_statistics_size(int64_t n, int64_t m, bool symmetric, bool columns);
void hopper_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts, Partial* row_sums);

// Statistics of rows of up to kSumsWidth columns; arguments as of pairwise_statistics. The first of them makes those of
// a softmax where one shift serves all rows and columns, and returns where none does; the second makes all, or the
// `rest`.
inline constexpr int64_t kSumsWidth = 512;
void pairwise_strips_sm90a(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts);
void pairwise_sums_sm90a(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts, bool rest);

// The chained backward, d <= 256, softmax; fields as in PairwiseBackward.
struct HopperChained {
  const Weight *x_weights, *y_weights;  // either may be null
  void* grad;
  float *row_dot, *parts;
  int64_t splits;
  int d;
  bool grad_f32;
};

void pairwise_chained_sm90a(const PairwiseProblem& p, const HopperChained& c);

}  // namespace sslspec::cuda

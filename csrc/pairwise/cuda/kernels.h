// CUDA entry points of the `pairwise` primitive; see csrc/pairwise/pairwise.h for the mathematics. Pointers are device
// memory, `stream` is the caller's stream as an integer. Nothing is allocated and nothing synchronises.
//
// pairwise_statistics, pairwise_chained and pairwise_weights choose between the portable kernels (*_sm80.cu) and those of
// Hopper (hopper/) in choose.cu. Products run on tensor cores: bfloat16 data as it is, float data as three tf32 products (fp32 accuracy) or one
// (Precision::fast), accumulated in fp32; double data runs on a plain path that exists for checking.
#pragma once
#include <cstddef>
#include <cstdint>

#include "common/tensor_view.h"

namespace sslspec::cuda {

enum class Precision { exact = 0, fast = 1 };  // of float32 products

// Per block of 128 rows: largest |x_i|, largest |scale_i x_i| (|x_i| when the scale is a scalar), smallest and largest
// id.
struct BlockBound {
  float norm, scaled_norm;
  int32_t id_min, id_max;
};

// Where the statistics leave the exponentials 2^(s_ij log2(e) - shift) of one shift for all (pairs.cuh): a bfloat16
// matrix at 16 bytes in whole tiles of 128 x 128, 0 for left-out pairs; symmetric: the tiles on and over the diagonal.
struct KeptExponentials {
  void* data;  // null: they keep none
  int64_t pitch;
};

struct PairwiseProblem {  // one orientation of the logits s_ij = scale_ij x_i . y_j, i over rows
  TensorView x, y;        // [n, d], [m, d]; rows at multiples of 16 bytes (float64: any stride)
  const void* scale;      // fp32 (fp64); index i * scale_row + j * scale_col
  int64_t scale_row, scale_col;
  const void* bias;                           // fp32 (fp64), one number: sigmoid; or null: softmax
  const int32_t *x_ids, *y_ids;               // pairs with equal ids are left out, or null
  const int64_t *skip_indptr, *skip_indices;  // CSR pattern of pairs to leave out, or null
  bool skip_by_column;                        // the pattern is stored by column of this orientation
  bool skip_self, symmetric;
  BlockBound *x_bounds, *y_bounds;  // made by pairwise_bounds; float64 has none
  // A number, 0 while one shift for all rows and columns is being tried or has been enough (pairs.cuh), or null: none is
  // tried beyond a narrow range. again: statistics that are to be made where the first ones set it.
  int32_t* flushed;
  bool again;
  KeptExponentials kept;  // bfloat16 rows, softmax
  Precision precision;
  int device;
  int64_t stream;
};

struct Weight {
  float shift, factor;
};  // W_ij = factor 2^(s_ij log2(e) - shift), one part of it

// Sums over one part of a row or column: sum of 2^(s log2(e) - top).
struct Partial {
  float top, sum;
};

void pairwise_bounds(const PairwiseProblem& p);

struct PairwiseGrid {  // super blocks of span x span tiles of 128 x 128, one block of threads each
  int64_t span, x_supers, y_supers;
  PairwiseGrid(int64_t n, int64_t m);
  int64_t blocks(bool symmetric) const {  // those of the upper triangle only
    return symmetric ? x_supers * (x_supers + 1) / 2 : x_supers * y_supers;
  }
};

// Softmax; or sigmoid: then the tops are 0 and the sums the result.
void pairwise_statistics(const PairwiseProblem& p,
                         Partial* x_parts,     // [y_supers, n]
                         Partial* y_parts,     // [x_supers, m], null without column statistics
                         Partial* tile_sums);  // [pairwise_tile_sums_size] when that is not 0
// Sets *p.flushed where one shift for all was tried and a sum is too small for it.
void pairwise_check_sums(const PairwiseProblem& p, const Partial* x_parts, const Partial* y_parts);
int64_t pairwise_tile_sums_size(int64_t n, int64_t m, int64_t d, DType dtype, bool symmetric, bool columns);
// Merges the slots of every row in order: out_i = log sum_i, or the sum itself without `logarithm`.
void pairwise_finish(const Partial* parts, int64_t slots, int64_t n, bool logarithm, float* out, int device,
                     int64_t stream);

// Weights of n rows (of x, or of y): grad_i 2^(-lse_i) relative to a shift that one exponential can serve (narrow) or
// to the row's own statistic (wide). lse == nullptr: sigmoid, the factors are the gradients.
void pairwise_row_weights(const PairwiseProblem& p, const float* lse, const float* grad, int64_t n, Weight* weights);

struct PairwiseBackward {
  const Weight *x_weights, *y_weights;  // [n], [m], either may be null; sigmoid: W_ij = factor times sigmoid
  bool grad_f32;                        // write the gradient of bfloat16 rows in float32
  void* grad;  // [n, d] dtype of x or float32: sum_j W_ij (scale_col ? scale_j : 1) y_j, times the row's scale unless
               // scale_col
  float* row_dot;    // [n] x_i . sum_j W_ij y_j, or null
  float* row_total;  // [n] sum_j W_ij (sigmoid), or null
  float* parts;      // [splits, n, d + 2] when splits > 1; they are not added up where grad is null
  int64_t splits;
  float* vectors;  // [pairwise_vectors_size] for pairwise_weights: the weights as separate arrays
};

// Adds the splits; pairwise_chained calls it when splits > 1.
void pairwise_reduce(const PairwiseProblem& p, const PairwiseBackward& b);

bool pairwise_chained_fits(int64_t d, DType dtype, int64_t shared_bytes);
int64_t pairwise_chained_splits(int64_t n, int64_t m);
void pairwise_chained(const PairwiseProblem& p, const PairwiseBackward& b);

// Elements of a number and five arrays, three of n and two of m values, each starting at a multiple of 16 bytes.
inline int64_t pairwise_vectors_size(int64_t n, int64_t m) { return 4 + 3 * ((n + 3) / 4 * 4) + 2 * ((m + 3) / 4 * 4); }

// The weights of rows row0.. of the problem as a matrix for products by a library GEMM: in the dtype of x, or (float32
// rows) as kWeightPieces bfloat16 matrices, one below the other, whose sum it is. Chunks come in order, row0 == 0
// first.
inline constexpr int kWeightPieces = 3;
struct WeightRows {
  int64_t row0, rows;
  void* data;  // [pieces rows, m]
  int64_t pitch;
  int pieces;
};
void pairwise_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w);

// The exponentials that the statistics left in p.kept become the weights of all rows, in place; where no shift serves
// all, the weights are made anew.
void pairwise_kept_weights(const PairwiseProblem& p, const PairwiseBackward& b);

// A softmax over rows (scale a scalar, no column part) in one visit of the pairs: 2^(s_ij log2(e) - shift_i) of rows
// row0.. as pairwise_weights writes weights, 0 for left-out pairs. The sums over the pairs of each row, and the shifts,
// stay in the workspace (exponentials.cuh), floats for a chunk of `rows` rows; the first chunk is that of row 0.
int64_t pairwise_exponentials_size(int64_t rows, int64_t m);
void pairwise_exponentials(const PairwiseProblem& p, const WeightRows& w, float* workspace);

// The sigmoid loss of rows x against rows y, pair (i, i) positive and the others negative: for rows row0.. the weights
// of its gradient as pairwise_weights writes them, row_factor_i sigmoid(s_ij), for a positive less row_factor_i, with
// s_ij = scale x_i . y_j + bias, and for each tile of 128 x 128, kSigmoidSlots times, sums over its pairs.
struct SigmoidProblem {
  TensorView x, y;                         // [n, d], [m, d], rows at multiples of 16 bytes; bfloat16 or float32
  const float *scale, *bias, *row_factor;  // null: number, offset, 1
  float number, offset;
  Precision precision;
  int device;
  int64_t stream;
};
struct SigmoidSums {
  float value, weight, product;  // of the loss, of the weights, of the weights times x_i . y_j
};
inline constexpr int kSigmoidSlots = 4;
void pairwise_sigmoid(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums);

int64_t device_shared_limit(int device);

// float64, one orientation at a time: out [n] of the forward; gradient of x from the row part, the column part or both.
void pairwise_forward_f64(const PairwiseProblem& p, double* out);
void pairwise_backward_f64(const PairwiseProblem& p, const double* x_lse, const double* x_grad, const double* y_lse,
                           const double* y_grad, double* grad, double* row_dot, double* row_total);

}  // namespace sslspec::cuda

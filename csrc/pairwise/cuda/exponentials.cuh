// One visit of the pairs of a softmax over rows: what the kernels that write the exponentials, and those that read their
// sums, share.
//
// Shift. Every exponential of the first visit is 2^(s - shift), s the logit in powers of two, with one shift for all
// rows: as large as overflow allows (pairs.cuh), and not below 0. That costs no pass over the pairs.
// Tiles of 128 rows with a smaller sum are visited twice more: for the largest logit of each row, and with it as shift.
#pragma once
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {

inline constexpr int kRedoneSpan = 64;  // tiles of a row of tiles that one block visits again

__device__ __forceinline__ float one_sided_shift(float limit) {
  return limit > kLargest ? limit - kLargest : 0.0f;  // NaN: every sum is NaN
}

// Floats of a chunk of rows against m, laid out.
struct Exponentials {
  float* shift;        // of all chunks
  float* sums;         // [rows, slots], a slot per tile of columns
  float *tops, *more;  // [rows, redone_slots] of the tiles that are visited again: largest logits, sums
  int32_t* redone;     // [row tiles] whether it is
  int64_t slots, redone_slots, size;

  __host__ __device__ Exponentials(float* base, int64_t rows, int64_t m)
      : slots(ceil_div(m, TileTraits::kRows)), redone_slots(ceil_div(slots, kRedoneSpan)) {
    const int64_t all = ceil_div(rows, TileTraits::kRows) * TileTraits::kRows;
    shift = base, sums = base + 4, tops = sums + all * slots, more = tops + all * redone_slots;
    redone = reinterpret_cast<int32_t*>(more + all * redone_slots);
    size = 4 + all * (slots + 2 * redone_slots) + all / TileTraits::kRows;
  }

  // By a warp: sum_j 2^(s_ij - top) of row i of the chunk, and its top. All lanes get it.
  __device__ __forceinline__ Partial merged(int64_t i) const {
    const bool again = redone[i / TileTraits::kRows];
    const int64_t count = again ? redone_slots : slots;
    const float* from = again ? more : sums;
    float sum = 0;
    for (int64_t k = threadIdx.x % 32; k < count; k += 32) sum += from[i * count + k];
    return {again ? top(i) : *shift, warp_sum(sum)};
  }
  __device__ __forceinline__ float top(int64_t i) const {
    float highest = negative_infinity();
    for (int64_t k = 0; k < redone_slots; ++k) highest = fmaxf(highest, tops[i * redone_slots + k]);
    return highest == negative_infinity() ? 0.0f : highest;  // no pair in this row
  }
};

}  // namespace sslspec::cuda

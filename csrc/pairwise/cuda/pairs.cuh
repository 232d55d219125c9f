// What the pairwise kernels share: the problem as device pointers, the bound on the logits, and the mask of left-out
// pairs.
//
// Shift. All logits lie in [-limit, limit], limit = max |scale_i x_i| max |y_j|. While 2 limit log2(e) stays inside
// the exponent range (kNarrow) the constant shift `limit` serves rows and columns with one exponential. Up to a limit of
// kOneSided a constant may still serve, as large as overflow allows: limit - kLargest. What it flushes to 0 is below
// 2^-126, and cannot matter to a row or column of n pairs whose sum is at least n 2^kLeast, which then is 2^24 times as
// large as n such terms. Where the caller takes part (`flushed`), such a pass is made first; sums that are smaller set
// the number, and the statistics are made again. Otherwise a running maximum per row and column is kept (forward) and
// the statistics themselves are the shift (backward).
// A problem and its transpose must have the same limit to the last bit, because the weights of one are used in
// both: the norms are multiplied first, and a scalar scale comes last.
#pragma once
#include <cstdint>

#include "gpu/launch.h"
#include "pairwise/cuda/kernels.h"
#include "gpu/reduce.cuh"
#include "gpu/tile_sm80.cuh"

namespace sslspec::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
// In powers of two. fp32 has normal numbers from 2^-126 to 2^127; a weight's factor may reach |gradient| 2^kNarrow, or
// that times the scale, which is at most 2^5.1 here for unit rows. So this leaves room for gradients of 2^21 (loss
// scaling in fp16 multiplies them by 2^16).
inline constexpr float kNarrow = 100.0f;
inline constexpr int kBoundRows = 128;  // rows per BlockBound
// Likewise. Sums of 2^25 terms below 2^kLargest are finite, and so are their products with unit rows.
inline constexpr float kLargest = 80.0f, kLeast = -102.0f, kOneSided = 160.0f;

struct Pairs {
  Rows x, y;
  const float* scale;
  int64_t scale_row, scale_col;
  const int32_t *x_ids, *y_ids;
  const int64_t *skip_indptr, *skip_indices;
  bool skip_by_column, skip_self, symmetric;
  const BlockBound *x_bounds, *y_bounds;
  const int32_t* flushed;
  bool again;
};

inline Rows rows_of(const TensorView& t) {
  const int64_t size = t.dtype == DType::bf16 ? 2 : 4;
  return {static_cast<const unsigned char*>(t.data), t.shape[0], t.stride[0] * size,
          static_cast<int>(t.shape[1] * size)};
}

inline Pairs pairs_of(const PairwiseProblem& p) {
  return {rows_of(p.x),     rows_of(p.y),  static_cast<const float*>(p.scale),
          p.scale_row,      p.scale_col,   p.x_ids,
          p.y_ids,          p.skip_indptr, p.skip_indices,
          p.skip_by_column, p.skip_self,   p.symmetric,
          p.x_bounds,       p.y_bounds,    p.flushed,
          p.again};
}

// Block `index` of the statistics: a super block of PairwiseGrid, of the upper triangle only if symmetric.
struct Super {
  int64_t x, y;
};

__device__ __forceinline__ Super super_block(int64_t index, bool symmetric, int64_t y_supers) {
  if (!symmetric) return {index / y_supers, index % y_supers};
  int64_t y = 0;  // x <= y: column y of the triangle holds y + 1 blocks
  while (index > y) index -= ++y;
  return {index, y};
}

// Its tiles.
struct SuperTiles {
  Super super;
  int64_t x_begin, x_end, y_begin, y_end;
  bool diagonal;

  __device__ __forceinline__ SuperTiles(const Pairs& p, int64_t index, int64_t span, int64_t y_supers)
      : super(super_block(index, p.symmetric, y_supers)), x_begin(super.x * span),
        x_end(min(x_begin + span, ceil_div(p.x.count, TileTraits::kRows))), y_begin(super.y * span),
        y_end(min(y_begin + span, ceil_div(p.y.count, TileTraits::kRows))),
        diagonal(p.symmetric && super.x == super.y) {}
};

// An absent part of the weights: its exponential is 0 and not infinite, which times the factor would not be 0.
constexpr Weight kNoWeight = {1e38f, 0.0f};

__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

// Bound of |s_ij| in powers of two, the same in every thread. slots: kWarps floats of shared memory.
template <int kWarps>
__device__ __forceinline__ float logit_limit(const Pairs& p, float* slots) {
  float x = 0, y = 0;
  for (int64_t b = threadIdx.x; b * kBoundRows < p.x.count; b += kWarps * 32)
    x = max_nan(x, p.scale_row ? p.x_bounds[b].scaled_norm : p.x_bounds[b].norm);
  for (int64_t b = threadIdx.x; b * kBoundRows < p.y.count; b += kWarps * 32)
    y = max_nan(y, p.scale_col ? p.y_bounds[b].scaled_norm : p.y_bounds[b].norm);
  const float product = block_max<kWarps>(x, slots) * block_max<kWarps>(y, slots);
  return (p.scale_row || p.scale_col ? product : product * fabsf(*p.scale)) * kLog2e;
}

// One shift for every row and column, with one exponential; NaN where none serves.
struct CommonShift {
  float value;
  __device__ __forceinline__ bool serves() const { return value == value; }
};

// The same in every thread; slots as of logit_limit.
template <int kWarps>
__device__ __forceinline__ CommonShift common_shift(const Pairs& p, float* slots) {
  const float limit = logit_limit<kWarps>(p, slots);
  if (2 * limit < kNarrow) return {limit * 1.0001f};
  const bool tried = limit <= kOneSided && p.flushed != nullptr && *p.flushed == 0;  // not NaN
  return {tried ? limit - kLargest : __int_as_float(0x7fffffff)};
}
// Statistics that are made again only where the first ones were flushed.
__device__ __forceinline__ bool is_done(const Pairs& p) { return p.again && *p.flushed == 0; }

// Kept exponentials from pair (i, j) on, and two neighbours of them, the first in an even column.
__device__ __forceinline__ KeptExponentials kept_at(KeptExponentials kept, int64_t i, int64_t j) {
  return {static_cast<__nv_bfloat16*>(kept.data) + i * kept.pitch + j, kept.pitch};
}
__device__ __forceinline__ void store_kept(KeptExponentials kept, int row, int column, float a, float b) {
  *static_cast<__nv_bfloat162*>(kept_at(kept, row, column).data) = __floats2bfloat162_rn(a, b);
}

// Are there pairs to leave out in rows i0 .. i0 + rows, columns j0 .. j0 + cols (padding included)? A tile never
// crosses a multiple of kBoundRows. The same answer in every thread.
__device__ __forceinline__ bool tile_is_masked(const Pairs& p, int64_t i0, int rows, int64_t j0, int cols) {
  if (i0 + rows > p.x.count || j0 + cols > p.y.count || p.skip_indptr != nullptr) return true;
  if (p.skip_self && i0 < j0 + cols && j0 < i0 + rows) return true;
  if (p.x_ids == nullptr) return false;
  const BlockBound a = p.x_bounds[i0 / kBoundRows], b = p.y_bounds[j0 / kBoundRows];
  return a.id_min <= b.id_max && b.id_min <= a.id_max;
}

__device__ __forceinline__ int64_t first_at_least(const int64_t* indices, int64_t low, int64_t high, int64_t value) {
  while (low < high) {
    const int64_t mid = low + (high - low) / 2;
    if (indices[mid] < value)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

// Bit c % 32 of bits[r * kCols / 32 + c / 32]: pair (i0 + r, j0 + c) is left out. The caller synchronises before (the
// words are free) and after. One of `threads` threads makes one word; this runs only for the few tiles that need it.
template <int kRows, int kCols>
__device__ __forceinline__ void mask_words(const Pairs& p, int64_t i0, int64_t j0, uint32_t* bits, int thread,
                                           int threads) {
  static_assert(kCols % 32 == 0);
  for (int at = thread; at < kRows * (kCols / 32); at += threads) {
    const int64_t i = i0 + at / (kCols / 32), j1 = j0 + at % (kCols / 32) * 32;
    uint32_t word = 0;
    if (i >= p.x.count) {
      bits[at] = 0xffffffffu;
      continue;
    }
    const bool by_row = p.skip_indptr != nullptr && !p.skip_by_column;
    if (by_row) {
      const int64_t end = p.skip_indptr[i + 1];
      for (int64_t k = first_at_least(p.skip_indices, p.skip_indptr[i], end, j1); k < end; ++k) {
        const int64_t c = p.skip_indices[k] - j1;
        if (c >= 32) break;
        word |= 1u << c;
      }
    }
    for (int c = 0; c < 32; ++c) {
      const int64_t j = j1 + c;
      bool out = j >= p.y.count || (p.skip_self && i == j);
      if (!out && p.x_ids != nullptr) out = p.x_ids[i] == p.y_ids[j];
      if (!out && p.skip_indptr != nullptr && p.skip_by_column) {
        const int64_t end = p.skip_indptr[j + 1];
        const int64_t k = first_at_least(p.skip_indices, p.skip_indptr[j], end, i);
        out = k < end && p.skip_indices[k] == i;
      }
      word |= static_cast<uint32_t>(out) << c;
    }
    bits[at] = word;
  }
}
template <int kRows, int kCols>
__device__ __noinline__ void fill_mask(const Pairs& p, int64_t i0, int64_t j0, uint32_t* bits) {
  mask_words<kRows, kCols>(p, i0, j0, bits, threadIdx.x, blockDim.x);
}

// Sum of two partial sums with their own maxima; an empty part has top = -inf and sum = 0.
__device__ __forceinline__ Partial merge(Partial a, Partial b) {
  const float top = fmaxf(a.top, b.top), base = top == negative_infinity() ? 0.0f : top;
  return {top, a.sum * exp2_fast(a.top - base) + b.sum * exp2_fast(b.top - base)};
}

// Logarithm (base e) of the sum of row i, its `slots` parts in order, n rows apart.
__device__ __forceinline__ float merged_log(const Partial* parts, int64_t slots, int64_t n, int64_t i) {
  Partial total = {negative_infinity(), 0.0f};
  for (int64_t s = 0; s < slots; ++s) total = merge(total, parts[s * n + i]);
  constexpr double kLn2 = 0.6931471805599453;
  return static_cast<float>((static_cast<double>(total.top) + log2(static_cast<double>(total.sum))) * kLn2);
}

// The weight of a row with the statistic log_sum and the gradient `grad` of it.
__device__ __forceinline__ Weight row_weight(CommonShift shift, float log_sum, float grad) {
  const bool empty = log_sum == negative_infinity();  // no pair in this row: no gradient
  Weight w = {shift.serves() ? shift.value : empty ? 0.0f : log_sum * kLog2e, 0.0f};
  if (!empty && grad != 0)
    w.factor = shift.serves()
                   ? static_cast<float>(grad * exp2(static_cast<double>(shift.value) - log_sum * 1.4426950408889634))
                   : grad;
  return w;
}

// log(1 + e) for e in [0, 1], 2e-7 relative: e times a polynomial through the Chebyshev points of log(1 + e) / e.
__device__ __forceinline__ float log1p_unit(float e) {
  constexpr float kTerms[] = {0.005126102361828089f, -0.029074065387248993f, 0.0775160863995552f,
                              -0.13602247834205627f, 0.19076880812644958f,   -0.2483539879322052f,
                              0.3331812024116516f,   -0.4999944567680359f,   0.9999999403953552f};
  float sum = kTerms[0];
#pragma unroll
  for (int k = 1; k < 9; ++k) sum = fmaf(sum, e, kTerms[k]);
  return sum * e;
}

// log(1 + e^x), accurate for very negative x as well; without a branch
__device__ __forceinline__ float softplus(float x) {
  return fmaxf(x, 0.0f) + log1p_unit(exp2_fast(-fabsf(x) * kLog2e));
}

// 1 / (1 + e^-x)
__device__ __forceinline__ float sigmoid(float x) {
  const float e = exp2_fast(-fabsf(x) * kLog2e);  // in (0, 1]: neither branch cancels or overflows
  return (x >= 0 ? 1.0f : e) / (1.0f + e);
}

}  // namespace sslspec::cuda

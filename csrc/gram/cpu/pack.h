// Packing of the standardised matrix xs_ik = (x_ik - shift_k) scale_k, so that a centred or scaled copy of x is never
// stored. Panels are those of simd/tile.h: kCols neighbours side by side at every step of the sum. What a step holds,
// and whether it is rounded, is that of the products (Op). Included by *.kernel.cpp only.
#pragma once
#include "simd/bfloat16.h"
#include "simd/steps.h"

namespace sslspec::cpu {
namespace {

template <typename T, typename Value = T>
struct Standardised {
  const Value* x;  // [n, d] row stride ld
  int64_t ld;
  const T* shift;  // [d] or null
  const T* scale;  // [d] or null

  Vec<T> vec(int64_t i, int64_t k) const {
    Vec<T> v = load_wide(x + i * ld + k);
    if (shift != nullptr) v -= load(shift + k);
    if (scale != nullptr) v *= load(scale + k);
    return v;
  }
  T at(int64_t i, int64_t k) const {
    T v = widened(x[i * ld + k]);
    if (shift != nullptr) v -= shift[k];
    if (scale != nullptr) v *= scale[k];
    return v;
  }
};

// One step of row i from column k on, and of column k from row i on; what is not below `end` counts as 0.
template <typename Op, typename Rows, typename T = typename Op::T>
T step_along(const Rows& xs, int64_t i, int64_t k, int64_t end) {
  using S = Steps<Op>;
  typename S::Value v[S::kNumbers] = {};
  for (int64_t s = 0; s < min64(S::kNumbers, end - k); ++s) v[s] = S::round(xs.at(i, k + s));
  return S::join(v);
}
template <typename Op, typename Rows, typename T = typename Op::T>
T step_across(const Rows& xs, int64_t i, int64_t end, int64_t k) {
  using S = Steps<Op>;
  typename S::Value v[S::kNumbers] = {};
  for (int64_t s = 0; s < min64(S::kNumbers, end - i); ++s) v[s] = S::round(xs.at(i + s, k));
  return S::join(v);
}
// A register of steps of row i, from column k on.
template <typename Op, typename Rows, typename T = typename Op::T>
inline __attribute__((always_inline)) Vec<T> steps_along(const Rows& xs, int64_t i, int64_t k) {
  Vec<T> v[Steps<Op>::kNumbers];
#pragma GCC unroll 2
  for (int s = 0; s < Steps<Op>::kNumbers; ++s) v[s] = xs.vec(i, k + s * kLanes<T>);
  return Steps<Op>::along(v);
}

// Rows [i0, i0 + ni) and columns [k0, k0 + depth) of xs into panels of kCols rows, [panel][step][kCols], zero-padded.
template <typename Op, typename Rows, typename T = typename Op::T>
void pack_depth(const Rows& xs, int64_t i0, int64_t ni, int64_t k0, int64_t depth, T* panels) {
  using S = Steps<Op>;
  constexpr int kCols = Tile<T>::kCols, L = kLanes<T>, N = S::kNumbers;
  const int64_t steps = S::of(depth);
  for (int64_t p = 0; p < ni; p += kCols) {
    for (int64_t r = 0; r < kCols; r += L) {
      T* out = panels + p * steps + r;
      const int64_t row = i0 + p + r, rows = max64(0, min64(L, ni - p - r));
      int64_t k = 0;
      if (rows == L)
        for (; N * (k + L) <= depth; k += L) {
          Vec<T> m[L];
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) m[l] = steps_along<Op>(xs, row + l, k0 + N * k);
          transpose<T>(m);
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) store(out + (k + l) * kCols, m[l]);
        }
      for (; k < steps; ++k)
        for (int64_t l = 0; l < L; ++l)
          out[k * kCols + l] = l < rows ? step_along<Op>(xs, row + l, k0 + N * k, k0 + depth) : T(0);
    }
  }
}

// Rows of memory that will be packed next, fetched a few cache lines at a time between register tiles: they lie a whole
// row apart, where no hardware prefetcher reaches.
struct Ahead {
  const char* row = nullptr;
  int64_t stride = 0, rows = 0, bytes = 0, at = 0;

  template <typename T, typename Value>
  static Ahead of(const Standardised<T, Value>& xs, int64_t i0, int64_t ni, int64_t k0, int64_t width) {
    const int64_t size = sizeof(Value);
    return {reinterpret_cast<const char*>(xs.x + i0 * xs.ld + k0), xs.ld * size, ni, width * size, 0};
  }
  inline __attribute__((always_inline)) void fetch(int lines) {
    for (int l = 0; l < lines && rows > 0; ++l) {
      __builtin_prefetch(row + at, 0, 2);
      at += 64;
      if (at >= bytes) at = 0, row += stride, --rows;
    }
  }
};

// Columns [k0, k0 + width) of row i, step by step; zeros up to `padded` steps.
template <typename Op, typename Rows, typename T = typename Op::T>
inline __attribute__((always_inline)) void copy_along(const Rows& xs, int64_t i, int64_t k0, int64_t width,
                                                      int64_t padded, T* out) {
  constexpr int L = kLanes<T>, N = Steps<Op>::kNumbers;
  int64_t s = 0;
  for (; N * (s + L) <= width; s += L) store(out + s, steps_along<Op>(xs, i, k0 + N * s));
  for (; N * s < width; ++s) out[s] = step_along<Op>(xs, i, k0 + N * s, k0 + width);
  for (; s < padded; ++s) out[s] = 0;
}

// Columns [k0, k0 + width) of the rows of one step, those from i to below `end`; zeros up to `padded` columns.
template <typename Op, typename Rows, typename T = typename Op::T>
inline __attribute__((always_inline)) void copy_across(const Rows& xs, int64_t i, int64_t end, int64_t k0,
                                                       int64_t width, int64_t padded, T* out) {
  using S = Steps<Op>;
  constexpr int L = kLanes<T>;
  int64_t k = 0;
  if (i + S::kNumbers <= end)
    for (; k + L <= width; k += L) {
      Vec<T> v[S::kNumbers];
#pragma GCC unroll 2
      for (int s = 0; s < S::kNumbers; ++s) v[s] = xs.vec(i + s, k0 + k);
      store(out + k, S::across(v));
    }
  for (; k < width; ++k) out[k] = step_across<Op>(xs, i, end, k0 + k);
  for (; k < padded; ++k) out[k] = 0;
}

// Columns [k0, k0 + width) of rows [i0, i0 + depth) into panels of kCols columns, [panel][step][kCols], zero-padded.
template <typename Op, typename Rows, typename T = typename Op::T>
void pack_width(const Rows& xs, int64_t k0, int64_t width, int64_t i0, int64_t depth, T* panels) {
  constexpr int kCols = Tile<T>::kCols, N = Steps<Op>::kNumbers;
  const int64_t steps = Steps<Op>::of(depth);
  for (int64_t s = 0; s < steps; ++s)
    for (int64_t c = 0; c < width; c += kCols)
      copy_across<Op>(xs, i0 + N * s, i0 + depth, k0 + c, min64(kCols, width - c), kCols,
                      panels + c * steps + s * kCols);
}

}  // namespace
}  // namespace sslspec::cpu

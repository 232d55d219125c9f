// Packing of the standardised matrix xs_ik = (x_ik - shift_k) scale_k, so that a centred or scaled copy of x is never
// stored. Panels are those of simd/tile.h: kCols neighbours side by side at every depth. Included by *.kernel.cpp only.
#pragma once
#include "simd/tile.h"

namespace sslspec::cpu {
namespace {

template <typename T>
struct Standardised {
  const T* x;  // [n, d] row stride ld
  int64_t ld;
  const T* shift;  // [d] or null
  const T* scale;  // [d] or null

  Vec<T> vec(int64_t i, int64_t k) const {
    Vec<T> v = load(x + i * ld + k);
    if (shift != nullptr) v -= load(shift + k);
    if (scale != nullptr) v *= load(scale + k);
    return v;
  }
  T at(int64_t i, int64_t k) const {
    T v = x[i * ld + k];
    if (shift != nullptr) v -= shift[k];
    if (scale != nullptr) v *= scale[k];
    return v;
  }
};

// Rows [i0, i0 + ni) and columns [k0, k0 + depth) of xs into panels of kCols rows, [panel][depth][kCols], zero-padded.
template <typename T>
void pack_depth(const Standardised<T>& xs, int64_t i0, int64_t ni, int64_t k0, int64_t depth, T* panels) {
  constexpr int kCols = Tile<T>::kCols, L = kLanes<T>;
  for (int64_t p = 0; p < ni; p += kCols) {
    for (int64_t r = 0; r < kCols; r += L) {
      T* out = panels + p * depth + r;
      const int64_t rows = max64(0, min64(L, ni - p - r));
      int64_t k = 0;
      if (rows == L)
        for (; k + L <= depth; k += L) {
          Vec<T> m[L];
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) m[l] = xs.vec(i0 + p + r + l, k0 + k);
          transpose<T>(m);
#pragma GCC unroll 16
          for (int l = 0; l < L; ++l) store(out + (k + l) * kCols, m[l]);
        }
      for (; k < depth; ++k)
        for (int64_t l = 0; l < L; ++l) out[k * kCols + l] = l < rows ? xs.at(i0 + p + r + l, k0 + k) : T(0);
    }
  }
}

// Rows of memory that will be packed next, fetched a few cache lines at a time between register tiles: they lie a whole
// row apart, where no hardware prefetcher reaches.
struct Ahead {
  const char* row = nullptr;
  int64_t stride = 0, rows = 0, bytes = 0, at = 0;

  template <typename T>
  static Ahead of(const Standardised<T>& xs, int64_t i0, int64_t ni, int64_t k0, int64_t width) {
    const int64_t size = sizeof(T);
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

// One row, columns [k0, k0 + width) into out; zeros up to `padded`.
template <typename T>
inline __attribute__((always_inline)) void copy_row(const Standardised<T>& xs, int64_t i, int64_t k0, int64_t width,
                                                    int64_t padded, T* out) {
  constexpr int L = kLanes<T>;
  int64_t k = 0;
  for (; k + L <= width; k += L) store(out + k, xs.vec(i, k0 + k));
  for (; k < width; ++k) out[k] = xs.at(i, k0 + k);
  for (; k < padded; ++k) out[k] = 0;
}

// Columns [k0, k0 + width) of rows [i0, i0 + depth) into panels of kCols columns, [panel][depth][kCols], zero-padded.
template <typename T>
void pack_width(const Standardised<T>& xs, int64_t k0, int64_t width, int64_t i0, int64_t depth, T* panels) {
  constexpr int kCols = Tile<T>::kCols;
  for (int64_t i = 0; i < depth; ++i)
    for (int64_t c = 0; c < width; c += kCols)
      copy_row(xs, i0 + i, k0 + c, min64(kCols, width - c), kCols, panels + c * depth + i * kCols);
}

}  // namespace
}  // namespace sslspec::cpu

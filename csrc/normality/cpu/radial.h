// Radial functions k(r) and their derivatives k'(r), r the squared distance of two rows, on registers. Included by
// *.kernel.cpp only.
#pragma once
#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

// Chebyshev series of k and k' in x = 1 - 2 r / top, summed by Clenshaw's recurrence: entire functions of r such as the
// average of a cosine over all directions need few terms on [0, top], whatever the dimension.
template <typename T>
struct SeriesRadial {
  const T* table;  // [terms][2]: the coefficients of k and of k'
  int64_t terms;
  T slope;  // -2 / top

  template <int V>
  inline __attribute__((always_inline)) void operator()(const Vec<T> (&r)[V], Vec<T> (&k)[V], Vec<T> (&dk)[V]) const {
    Vec<T> x[V], twice[V], k2[V], dk2[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      x[v] = r[v] * slope + T(1);
      twice[v] = x[v] + x[v];
      k[v] = dk[v] = k2[v] = dk2[v] = Vec<T>{};
    }
    for (int64_t m = terms - 1; m > 0; --m) {
      const Vec<T> c = splat(table[2 * m]), dc = splat(table[2 * m + 1]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec<T> next = twice[v] * k[v] + (c - k2[v]), dnext = twice[v] * dk[v] + (dc - dk2[v]);
        k2[v] = k[v], k[v] = next, dk2[v] = dk[v], dk[v] = dnext;
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      k[v] = x[v] * k[v] + (table[0] - k2[v]);
      dk[v] = x[v] * dk[v] + (table[1] - dk2[v]);
    }
  }
};

// exp(-a r)
template <typename T>
struct GaussianRadial {
  T a;

  template <int V>
  inline __attribute__((always_inline)) void operator()(const Vec<T> (&r)[V], Vec<T> (&k)[V], Vec<T> (&dk)[V]) const {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      k[v] = exp_negative<T>(r[v] * -a);
      dk[v] = k[v] * -a;
    }
  }
};

// (c + r)^(-1/2)
template <typename T>
struct InverseRootRadial {
  T c;

  template <int V>
  inline __attribute__((always_inline)) void operator()(const Vec<T> (&r)[V], Vec<T> (&k)[V], Vec<T> (&dk)[V]) const {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      T root[kLanes<T>];
      store(root, r[v] + c);
      for (int l = 0; l < kLanes<T>; ++l) root[l] = T(1) / __builtin_sqrt(root[l]);
      k[v] = load(root);
      dk[v] = T(-0.5) * k[v] * k[v] * k[v];
    }
  }
};

}  // namespace
}  // namespace sslspec::cpu

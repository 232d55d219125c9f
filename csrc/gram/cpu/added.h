// What the gradient of `gram` holds beside products, added when it is first written. Included by *.kernel.cpp only.
#pragma once
#include "gram/cpu/pack.h"

namespace sslspec::cpu {
namespace {

// own xs + other ys + near (x - y) for the rows from i and the columns from k on, and the products of a diagonal that is
// not among the weights: by rows of the tile or by its columns of xs, or by its columns of ys.
template <typename T, typename Value>
struct Added {
  const Standardised<T, Value>*xs, *ys;  // ys: null where there is no y
  int64_t i, k;
  const T *own, *other;  // [d] or null
  T near;
  const T *of_row = nullptr, *of_column = nullptr, *of_partner = nullptr;  // at the corner of the tile, or null

  Vec<T> difference(int64_t row, int64_t c) const {
    return load_wide(xs->x + row * xs->ld + c) - load_wide(ys->x + row * ys->ld + c);
  }

  // out (leading dimension ldo) = acc and these terms; only `rows` x `cols` of them are inside out
  template <int R, int V>
  inline __attribute__((always_inline)) void store_with(const Vec<T> (&acc)[R][V], T* out, int64_t ldo, int64_t rows,
                                                        int64_t cols) const {
    constexpr int L = kLanes<T>;
    if (rows >= R && cols >= V * L) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const int64_t c = k + v * L;
        const Vec<T> a = own ? load(own + c) : Vec<T>{}, b = other ? load(other + c) : Vec<T>{};
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          Vec<T> sum = acc[r][v] + a * xs->vec(i + r, c);
          if (other) sum += b * ys->vec(i + r, c);
          if (of_row) sum += of_row[r] * xs->vec(i + r, c);
          if (of_column) sum += load(of_column + v * L) * xs->vec(i + r, c);
          if (of_partner) sum += load(of_partner + v * L) * ys->vec(i + r, c);
          if (near != 0) sum += near * difference(i + r, c);
          store(out + r * ldo + v * L, sum);
        }
      }
      return;
    }
    T edge[V * L];
    for (int64_t r = 0; r < min64(R, rows); ++r) {
      for (int v = 0; v < V; ++v) store(edge + v * L, acc[r][v]);
      for (int64_t c = 0; c < min64(V * L, cols); ++c) {
        T sum = edge[c];
        if (own) sum += own[k + c] * xs->at(i + r, k + c);
        if (other) sum += other[k + c] * ys->at(i + r, k + c);
        if (of_row) sum += of_row[r] * xs->at(i + r, k + c);
        if (of_column) sum += of_column[c] * xs->at(i + r, k + c);
        if (of_partner) sum += of_partner[c] * ys->at(i + r, k + c);
        if (near != 0)
          sum += near * (widened(xs->x[(i + r) * xs->ld + k + c]) - widened(ys->x[(i + r) * ys->ld + k + c]));
        out[r * ldo + c] = sum;
      }
    }
  }
};

}  // namespace
}  // namespace sslspec::cpu

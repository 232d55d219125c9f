// The common product row by row, acc_i = sum_j w_ij y_j over all entries of a row, without the batches of gather.h:
// indices are decoded where they are used, so a panel of few registers costs little more than its loads. Weights: 1,
// c_j, a_ij or a_ij c_j with values in T; rows of up to kLongRow entries. Everything else is for gather.h.
//
// Precision policy: as gather.h; one chain of additions per column, in the order of the entries.
#pragma once
#include "sparse/cpu/gather.h"

namespace sslspec::cpu {
namespace {

enum class Weight { one, scale, value, both };

// One panel of one row: V registers from column c on, the last one cut by `tail` when kTail.
template <Weight weight, int V, bool kTail, typename T, typename Index, typename Sink>
inline __attribute__((always_inline)) void row_panel(const SparseArgs<T>& a, const Index* indices, const T* values,
                                                     int64_t row, ByRows<T> y, int64_t c, const Tail<T>& tail,
                                                     Sink& sink) {
  constexpr int L = kLanes<T>;
  constexpr int kAhead = Batch<T>::kAhead;
  const int64_t stop = a.indptr[row + 1];
  const int64_t ahead = stop + kAhead <= a.nnz ? kAhead : 0;  // the last rows ask for what they are about to read
  Vec<T> acc[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) acc[v] = Vec<T>{};
  for (int64_t at = a.indptr[row]; at < stop; ++at) {
    const int64_t j = static_cast<int64_t>(indices[at]);
    const T* entry = y.data + j * y.ld + c;
    const T* next = y.data + static_cast<int64_t>(indices[at + ahead]) * y.ld + c;
    ask_for<V * L>(next);
    Vec<T> w{};
    if (weight == Weight::scale) w = splat(a.col_scale[j]);
    if (weight == Weight::value) w = splat(values[at]);
    if (weight == Weight::both) w = splat(values[at] * a.col_scale[j]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Vec<T> e = kTail && v == V - 1 ? tail.load(entry + v * L) : load(entry + v * L);
      acc[v] += weight == Weight::one ? e : w * e;
    }
  }
  sink.template row<V, kTail>(row, c, acc, tail);
}

constexpr int64_t kLongRow = 256;

template <Weight weight, int V, bool kTail, typename T, typename Index, typename Sink>
void rows_panel(const SparseArgs<T>& a, int64_t begin, int64_t end, const T* y, int64_t ldy, int64_t c, int64_t lanes,
                Sink& sink) {
  const Tail<T> tail(lanes);
  const Index* indices = static_cast<const Index*>(a.indices);
  const T* values = static_cast<const T*>(a.values);
  for (int64_t i = begin; i < end; ++i) row_panel<weight, V, kTail, T>(a, indices, values, i, {y, ldy}, c, tail, sink);
}

template <Weight weight, typename Index, typename T, typename Sink>
void rows_columns(const SparseArgs<T>& a, int64_t begin, int64_t end, const T* y, int64_t ldy, int64_t b, Sink& sink) {
  constexpr int L = kLanes<T>;
  for (int64_t c = 0; c < b;) {
    const int64_t left = b - c, lanes = left % L;
    if (left >= 4 * L) {
      rows_panel<weight, 4, false, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c += 4 * L;
    } else if (left > 3 * L) {
      rows_panel<weight, 4, true, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c = b;
    } else if (left == 3 * L) {
      rows_panel<weight, 3, false, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c = b;
    } else if (left >= 2 * L) {
      rows_panel<weight, 2, false, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c += 2 * L;
    } else if (left > L) {
      rows_panel<weight, 2, true, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c = b;
    } else if (left == L) {
      rows_panel<weight, 1, false, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c = b;
    } else {
      rows_panel<weight, 1, true, T, Index>(a, begin, end, y, ldy, c, lanes, sink), c = b;
    }
  }
}

template <typename Index, typename T, typename Sink>
void rows_weights(const SparseArgs<T>& a, int64_t begin, int64_t end, const T* y, int64_t ldy, int64_t b, Sink& sink) {
  if (a.values == nullptr) {
    if (a.col_scale == nullptr)
      rows_columns<Weight::one, Index>(a, begin, end, y, ldy, b, sink);
    else
      rows_columns<Weight::scale, Index>(a, begin, end, y, ldy, b, sink);
  } else {
    if (a.col_scale == nullptr)
      rows_columns<Weight::value, Index>(a, begin, end, y, ldy, b, sink);
    else
      rows_columns<Weight::both, Index>(a, begin, end, y, ldy, b, sink);
  }
}

// As gather_rows<Term::neighbours>, for any weights and row lengths; picks the direct path where it applies.
template <typename T, typename Sink>
void product_rows(const SparseArgs<T>& a, int64_t begin, int64_t end, const T* y, int64_t ldy, int64_t b, T* carry,
                  Sink& sink) {
  const int64_t most = b <= 4 * kLanes<T> ? end : 32;  // rows that share their indices in the L1 cache between panels
  const bool typed = a.values == nullptr || a.precise == (sizeof(T) == 8);
  if (!typed || a.upper || a.combine != Combine::product)
    return gather_rows<Term::neighbours, T>(a, begin, end, {}, {y, ldy}, b, carry, sink);
  while (begin < end) {
    if (a.indptr[begin + 1] - a.indptr[begin] > kLongRow) {
      gather_rows<Term::neighbours, T>(a, begin, begin + 1, {}, {y, ldy}, b, carry, sink);
      ++begin;
      continue;
    }
    int64_t run = begin + 1;
    while (run < end && run - begin < most && a.indptr[run + 1] - a.indptr[run] <= kLongRow) ++run;
    if (a.wide)
      rows_weights<int64_t>(a, begin, run, y, ldy, b, sink);
    else
      rows_weights<int32_t>(a, begin, run, y, ldy, b, sink);
    begin = run;
  }
}

}  // namespace
}  // namespace sslspec::cpu

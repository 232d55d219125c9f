// Weighted sums over the neighbours of a row, the engine under `spmm`, `edges` and `graph_cov`:
//   neighbours   acc_i = sum_j w_ij y_j
//   differences  acc_i = sum_j w_ij (x_i - y_j)
//   squares      acc_i = sum_j w_ij (x_i - y_j)^2      (element by element)
// Rows arrive in batches: the entries of a batch are first decoded (index type, value type, scales, upper triangle)
// into pointers and weights in the L1 cache, then every column panel of up to 8 registers runs over them. So only the
// panel width, the term and "all weights are 1" are template arguments. Rows of Y are prefetched kAhead entries early:
// they are the memory traffic that counts, and no hardware prefetcher can guess them. 24 entries cover a memory of long
// latency: 120,000 rows of 16 floats outside the caches, on a Xeon with AVX512-FP16, take 10.7 ms; 12 entries 12.7, 40 9.8.
//
// Precision policy: sums are in T, in the order of the entries; a row with more than kEntries entries is summed in
// blocks of kEntries, which also bounds the error of long rows. No result depends on the number of threads.
#pragma once
#include "sparse/cpu/csr.h"
#include "simd/tail.h"
#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

enum class Term { neighbours, differences, squares };

template <typename T>
struct Batch {
  static constexpr int kEntries = 256, kRows = 128, kAhead = 24;
  const T* entry[kEntries + kAhead];  // rows of Y, then those that will be needed next
  T weight[kEntries];
  int32_t begin[kRows + 1];
  int64_t first_row;
  int32_t rows;
  bool unit;              // all weights are 1
  bool starts, finishes;  // false only for a piece of a row with more than kEntries entries
};

// Position in the stream of entries: the next entry of the next row.
struct Cursor {
  int64_t row, at;
};

// Weights of `count` entries from position `at` on, in flat loops that the compiler turns into vector code.
template <typename T, typename Index>
inline void decode_weights(const SparseArgs<T>& a, const Index* indices, int64_t at, int64_t count, T* weight) {
  if (a.values == nullptr) {
    for (int64_t k = 0; k < count; ++k) weight[k] = a.col_scale[indices[at + k]];
    return;
  }
  if (a.precise) {
    const double* values = static_cast<const double*>(a.values) + at;
    for (int64_t k = 0; k < count; ++k) weight[k] = static_cast<T>(values[k]);
  } else {
    const float* values = static_cast<const float*>(a.values) + at;
    for (int64_t k = 0; k < count; ++k) weight[k] = static_cast<T>(values[k]);
  }
  if (a.col_scale != nullptr)
    for (int64_t k = 0; k < count; ++k) weight[k] *= a.col_scale[indices[at + k]];
}

// The common case, products over all entries: rows first, then their entries, which lie side by side.
template <typename T, typename Index>
int32_t decode_rows(const SparseArgs<T>& a, const Index* indices, const T* y, int64_t ldy, int64_t row_end,
                    Cursor& cursor, Batch<T>& batch) {
  using B = Batch<T>;
  const int64_t first = cursor.at;
  int32_t rows = 0;
  while (cursor.row < row_end && rows < B::kRows) {
    const int64_t row_stop = a.indptr[cursor.row + 1];
    if (row_stop - first > B::kEntries) {
      if (rows > 0) break;  // a long row begins its own batch
      cursor.at = first + B::kEntries;
      batch.finishes = false;
      batch.begin[++rows] = B::kEntries;
      break;
    }
    batch.begin[++rows] = static_cast<int32_t>(row_stop - first);
    cursor.at = row_stop;
    ++cursor.row;
    if (!batch.starts) break;  // the end of a long row ends its batch
  }
  batch.rows = rows;
  const int32_t filled = batch.begin[rows];
  for (int32_t k = 0; k < filled; ++k) batch.entry[k] = y + static_cast<int64_t>(indices[first + k]) * ldy;
  if (!batch.unit) decode_weights(a, indices, first, filled, batch.weight);
  return filled;
}

// The same for any combination of weights, and for the upper triangle alone.
template <typename T, typename Index>
int32_t decode_terms(const SparseArgs<T>& a, const Index* indices, const T* y, int64_t ldy, int64_t row_end,
                     Cursor& cursor, Batch<T>& batch) {
  using B = Batch<T>;
  const auto value = [&](int64_t k) {
    if (a.values == nullptr) return T(1);
    return a.precise ? static_cast<T>(static_cast<const double*>(a.values)[k])
                     : static_cast<T>(static_cast<const float*>(a.values)[k]);
  };
  int32_t rows = 0, filled = 0;
  while (cursor.row < row_end && rows < B::kRows) {
    const int64_t i = cursor.row, row_stop = a.indptr[i + 1];
    int64_t stop = row_stop;
    if (stop - cursor.at > B::kEntries - filled) {
      if (rows > 0) break;  // a long row begins its own batch
      stop = cursor.at + B::kEntries;
      batch.finishes = false;
    }
    const T own = a.combine == Combine::sum ? a.row_scale[i] : T(0);
    for (int64_t k = cursor.at; k < stop; ++k) {
      const int64_t j = static_cast<int64_t>(indices[k]);
      if (a.upper && j < i) continue;
      T w = value(k);
      if (a.combine == Combine::sum)
        w *= own + a.col_scale[j];
      else if (a.col_scale != nullptr)
        w *= a.col_scale[j];
      if (a.upper && j == i) {
        w *= T(0.5);
        batch.unit = false;
      }
      batch.weight[filled] = w;
      batch.entry[filled++] = y + j * ldy;
    }
    batch.begin[++rows] = filled;
    cursor.at = stop;
    if (stop < row_stop) break;
    ++cursor.row;
    if (!batch.starts) break;  // the end of a long row ends its batch
  }
  batch.rows = rows;
  return filled;
}

template <typename T, typename Index>
void decode(const SparseArgs<T>& a, const Index* indices, const T* y, int64_t ldy, int64_t row_end, Cursor& cursor,
            Batch<T>& batch) {
  const bool products = a.combine == Combine::product;
  batch.first_row = cursor.row;
  batch.starts = cursor.at == a.indptr[cursor.row];
  batch.finishes = true;
  batch.unit = products && a.values == nullptr && a.col_scale == nullptr;
  batch.begin[0] = 0;
  const int32_t filled = products && !a.upper ? decode_rows(a, indices, y, ldy, row_end, cursor, batch)
                                              : decode_terms(a, indices, y, ldy, row_end, cursor, batch);
  for (int ahead = 0; ahead < Batch<T>::kAhead; ++ahead) {
    const int64_t k = cursor.at + ahead < a.nnz ? cursor.at + ahead : a.nnz - 1;
    batch.entry[filled + ahead] = k < 0 ? y : y + static_cast<int64_t>(indices[k]) * ldy;
  }
}

// acc[0] = sum of add(k, u) over k in [begin, stop): U chains of additions, each into its own acc[u], hide the latency.
template <typename T, int U, int V, typename Add>
inline __attribute__((always_inline)) void add_in_chains(int64_t begin, int64_t stop, Vec<T> (&acc)[U][V],
                                                         const Add& add) {
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[u][v] = Vec<T>{};
  int64_t k = begin;
  for (; k + U <= stop; k += U)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) add(k + u, u);
  for (; k < stop; ++k) add(k, 0);
#pragma GCC unroll 4
  for (int u = 1; u < U; ++u)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[0][v] += acc[u][v];
}
template <int V>
constexpr int kChains = V >= 8   ? 1
                        : V == 4 ? 2
                                 : 4;

// One column panel of a batch: V registers from column c on, the last one cut by `tail` when kTail.
// sink(row, c, acc, tail) gets the finished sums of one row; `carry` keeps those of an unfinished one.
template <Term term, int V, bool kTail, bool kUnit, typename T, typename Sink>
void panel(const Batch<T>& batch, const T* x, int64_t ldx, int64_t c, const Tail<T>& tail, T* carry, Sink& sink) {
  constexpr int L = kLanes<T>;
  constexpr int U = kChains<V>;
  const auto read = [&](const T* p, int v) { return kTail && v == V - 1 ? tail.load(p + v * L) : load(p + v * L); };
  for (int32_t r = 0; r < batch.rows; ++r) {
    const int64_t row = batch.first_row + r;
    Vec<T> own[V], acc[U][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) own[v] = term == Term::neighbours ? Vec<T>{} : read(x + row * ldx + c, v);
    const auto add = [&](int64_t k, int u) __attribute__((always_inline)) {
      const T* entry = batch.entry[k] + c;
      const T* next = batch.entry[k + Batch<T>::kAhead] + c;
      ask_for<V * L>(next);
      const Vec<T> w = kUnit ? Vec<T>{} : splat(batch.weight[k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        Vec<T> e = read(entry, v);
        if (term != Term::neighbours) e = own[v] - e;
        if (term == Term::squares) e *= e;
        acc[u][v] += kUnit ? e : w * e;
      }
    };
    add_in_chains<T>(batch.begin[r], batch.begin[r + 1], acc, add);
    if (!batch.starts)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[0][v] += read(carry + c, v);
    if (batch.finishes) {
      sink.template row<V, kTail>(row, c, acc[0], tail);
    } else {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        if (kTail && v == V - 1)
          tail.store(carry + c + v * L, acc[0][v]);
        else
          store(carry + c + v * L, acc[0][v]);
      }
    }
  }
}

template <Term term, int V, bool kTail, typename T, typename Sink>
void panel(const Batch<T>& batch, const T* x, int64_t ldx, int64_t c, int64_t lanes, T* carry, Sink& sink) {
  const Tail<T> tail(lanes);
  if (batch.unit)
    panel<term, V, kTail, true>(batch, x, ldx, c, tail, carry, sink);
  else
    panel<term, V, kTail, false>(batch, x, ldx, c, tail, carry, sink);
}

// A matrix by rows, `ld` elements apart.
template <typename T>
struct ByRows {
  const T* data = nullptr;
  int64_t ld = 0;
};

// Rows [row_begin, row_end) of A against y (b columns); x is read only for differences and squares.
// carry: room for b values. sink sees the panels of a row from left to right.
template <Term term, typename T, typename Sink>
void gather_rows(const SparseArgs<T>& a, int64_t row_begin, int64_t row_end, ByRows<T> x, ByRows<T> y, int64_t b,
                 T* carry, Sink& sink) {
  constexpr int L = kLanes<T>;
  Batch<T> batch;
  Cursor cursor{row_begin, a.indptr[row_begin]};
  while (cursor.row < row_end) {
    if (a.wide)
      decode(a, static_cast<const int64_t*>(a.indices), y.data, y.ld, row_end, cursor, batch);
    else
      decode(a, static_cast<const int32_t*>(a.indices), y.data, y.ld, row_end, cursor, batch);
    for (int64_t c = 0; c < b;) {
      const int64_t left = b - c, lanes = left % L;
      if (left >= 8 * L) {
        panel<term, 8, false>(batch, x.data, x.ld, c, lanes, carry, sink), c += 8 * L;
      } else if (left >= 4 * L) {
        panel<term, 4, false>(batch, x.data, x.ld, c, lanes, carry, sink), c += 4 * L;
      } else if (left > 3 * L) {
        panel<term, 4, true>(batch, x.data, x.ld, c, lanes, carry, sink), c = b;
      } else if (left >= 2 * L) {
        panel<term, 2, false>(batch, x.data, x.ld, c, lanes, carry, sink), c += 2 * L;
      } else if (left > L) {
        panel<term, 2, true>(batch, x.data, x.ld, c, lanes, carry, sink), c = b;
      } else if (left == L) {
        panel<term, 1, false>(batch, x.data, x.ld, c, lanes, carry, sink), c = b;
      } else {
        panel<term, 1, true>(batch, x.data, x.ld, c, lanes, carry, sink), c = b;
      }
    }
  }
}

}  // namespace
}  // namespace sslspec::cpu

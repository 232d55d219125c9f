// out_i = sum_j a_ij <x_i, y_j> or sum_j a_ij |x_i - y_j|^2: the gather of `spmm` whose finished rows are reduced in
// registers, so A Y is never stored. Same traffic as `spmm` without the output. edge_values keeps <x_i, y_j> of each
// entry.
#include "sparse/cpu/edges.h"

#include "sparse/cpu/gather.h"
#include "simd/parallel.h"
#include "simd/scratch.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

enum Slot { kCarry };
constexpr int64_t kTaskBytes = 1 << 20;

template <typename T, bool kSquared>
struct ReduceRows {
  const EdgesArgs<T>& p;

  template <int V, bool kTail>
  inline __attribute__((always_inline)) void row(int64_t i, int64_t c, const Vec<T> (&acc)[V], const Tail<T>& tail) {
    constexpr int L = kLanes<T>;
    const T* x = p.x + i * p.ldx + c;
    Vec<T> sum{};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if (kSquared)
        sum += acc[v];
      else
        sum += acc[v] * (kTail && v == V - 1 ? tail.load(x + v * L) : load(x + v * L));
    }
    p.out[i] = (c == 0 ? T(0) : p.out[i]) + hsum<T>(sum);
  }
};

// out_e = <x_i, y_j> for the entries of rows [begin, end): every row of Y that an entry names is read once.
template <typename T, typename Index>
void dots(const EdgesArgs<T>& p, const Index* indices, int64_t begin, int64_t end) {
  constexpr int L = kLanes<T>, U = 4, kAhead = Batch<T>::kAhead;
  const Tail<T> tail(p.d % L);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = p.x + i * p.ldx;
    for (int64_t e = p.a.indptr[i]; e < p.a.indptr[i + 1]; ++e) {
      const T* y = p.y + static_cast<int64_t>(indices[e]) * p.ldy;
      const T* next = p.y + static_cast<int64_t>(indices[e + kAhead < p.a.nnz ? e + kAhead : e]) * p.ldy;
      Vec<T> sum[U] = {};  // independent sums hide the latency of the additions
      int64_t c = 0;
      for (; c + U * L <= p.d; c += U * L)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
          __builtin_prefetch(next + c + u * L, 0, 3);
          sum[u] += load(x + c + u * L) * load(y + c + u * L);
        }
      for (; c + L <= p.d; c += L) {
        __builtin_prefetch(next + c, 0, 3);
        sum[0] += load(x + c) * load(y + c);
      }
      if (c < p.d) sum[1] += tail.load(x + c) * tail.load(y + c);
      p.out[e] = hsum<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
  }
}

// f(begin, end) for pieces of about equal cost of the rows
template <typename T, typename F>
void for_row_ranges(const EdgesArgs<T>& p, const F& f) {
  const int64_t bytes = (p.a.nnz + p.a.n) * p.d * static_cast<int64_t>(sizeof(T));
  int64_t tasks = bytes / kTaskBytes + 1;
  if (tasks > 4096) tasks = 4096;
  parallel_for(tasks, p.threads, [&](int64_t t) {
    const int64_t begin = split_rows(p.a.indptr, p.a.n, t, tasks), end = split_rows(p.a.indptr, p.a.n, t + 1, tasks);
    if (begin < end) f(begin, end);
  });
}

}  // namespace

template <typename T>
void edges(const EdgesArgs<T>& p) {
  for_row_ranges(p, [&](int64_t begin, int64_t end) {
    T* carry = static_cast<T*>(scratch(kCarry, p.d * sizeof(T)));
    if (p.squared) {
      ReduceRows<T, true> sink{p};
      gather_rows<Term::squares, T>(p.a, begin, end, {p.x, p.ldx}, {p.y, p.ldy}, p.d, carry, sink);
    } else {
      ReduceRows<T, false> sink{p};
      gather_rows<Term::neighbours, T>(p.a, begin, end, {p.x, p.ldx}, {p.y, p.ldy}, p.d, carry, sink);
    }
  });
}

template <typename T>
void edge_values(const EdgesArgs<T>& p) {
  for_row_ranges(p, [&](int64_t begin, int64_t end) {
    if (p.a.wide)
      dots(p, static_cast<const int64_t*>(p.a.indices), begin, end);
    else
      dots(p, static_cast<const int32_t*>(p.a.indices), begin, end);
  });
}

template void edges<float>(const EdgesArgs<float>&);
template void edges<double>(const EdgesArgs<double>&);
template void edge_values<float>(const EdgesArgs<float>&);
template void edge_values<double>(const EdgesArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

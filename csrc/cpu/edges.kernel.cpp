// out_i = sum_j a_ij <x_i, y_j> or sum_j a_ij |x_i - y_j|^2: the gather of `spmm` whose finished rows are reduced in
// registers, so A Y is never stored. Same traffic as `spmm` without the output.
#include "cpu/edges.h"

#include "cpu/gather.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

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

}  // namespace

template <typename T>
void edges(const EdgesArgs<T>& p) {
  const int64_t bytes = (p.a.nnz + p.a.n) * p.d * static_cast<int64_t>(sizeof(T));
  int64_t tasks = bytes / kTaskBytes + 1;
  if (tasks > 4096) tasks = 4096;
  parallel_for(tasks, p.threads, [&](int64_t t) {
    const int64_t begin = split_rows(p.a.indptr, p.a.n, t, tasks), end = split_rows(p.a.indptr, p.a.n, t + 1, tasks);
    if (begin >= end) return;
    T* carry = static_cast<T*>(scratch(kCarry, p.d * sizeof(T)));
    if (p.squared) {
      ReduceRows<T, true> sink{p};
      gather_rows<Term::squares>(p.a, begin, end, p.x, p.ldx, p.y, p.ldy, p.d, carry, sink);
    } else {
      ReduceRows<T, false> sink{p};
      gather_rows<Term::neighbours>(p.a, begin, end, p.x, p.ldx, p.y, p.ldy, p.d, carry, sink);
    }
  });
}

template void edges<float>(const EdgesArgs<float>&);
template void edges<double>(const EdgesArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// Y = alpha * r (A (c X)) + beta * Y + (gamma + delta * diagonal) W. Each row of Y is written once, by one task; rows
// are cut into tasks of equal cost (entries + rows) by the problem size alone. Memory traffic: one row of X per entry,
// where the order of the rows decides how much of it the caches serve, plus the index and Y.
#include "sparse/cpu/spmm.h"

#include "simd/parallel.h"
#include "sparse/cpu/rows.h"
#include "simd/scratch.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

enum Slot { kCarry };
constexpr int64_t kTaskBytes = 1 << 20;  // of gathered rows: tens of microseconds, so that 4096 tasks never matter

template <typename T>
struct WriteRows {
  const SpmmArgs<T>& p;

  template <int V, bool kTail>
  inline __attribute__((always_inline)) void row(int64_t i, int64_t c, const Vec<T> (&acc)[V], const Tail<T>& tail) {
    constexpr int L = kLanes<T>;
    const Vec<T> factor = splat(p.row_scale == nullptr ? p.alpha : p.alpha * p.row_scale[i]);
    const T of_w = p.diagonal == nullptr ? p.gamma : p.gamma + p.delta * p.diagonal[i];
    T* y = p.y + i * p.ldy + c;
    const T* w = p.w + (p.w == nullptr ? 0 : i * p.ldw + c);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const bool cut = kTail && v == V - 1;
      Vec<T> out = factor * acc[v];
      if (p.beta != T(0)) out += p.beta * (cut ? tail.load(y + v * L) : load(y + v * L));
      if (p.w != nullptr) out += of_w * (cut ? tail.load(w + v * L) : load(w + v * L));
      if (cut)
        tail.store(y + v * L, out);
      else
        store(y + v * L, out);
    }
  }
};

}  // namespace

template <typename T>
void spmm(const SpmmArgs<T>& p) {
  const int64_t bytes = (p.a.nnz + p.a.n) * p.b * static_cast<int64_t>(sizeof(T));
  int64_t tasks = bytes / kTaskBytes + 1;
  if (tasks > 4096) tasks = 4096;
  parallel_for(tasks, p.threads, [&](int64_t t) {
    const int64_t begin = split_rows(p.a.indptr, p.a.n, t, tasks), end = split_rows(p.a.indptr, p.a.n, t + 1, tasks);
    if (begin >= end) return;
    T* carry = static_cast<T*>(scratch(kCarry, p.b * sizeof(T)));
    WriteRows<T> sink{p};
    if (p.own == nullptr)
      product_rows(p.a, begin, end, p.x, p.ldx, p.b, carry, sink);
    else
      gather_rows<Term::differences, T>(p.a, begin, end, {p.own, p.ldo}, {p.x, p.ldx}, p.b, carry, sink);
  });
}

template void spmm<float>(const SpmmArgs<float>&);
template void spmm<double>(const SpmmArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

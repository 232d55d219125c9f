// C = X^T A Y and its gradient's (A Y) M + u v^T without storing A Y: kBlock rows of A Y are formed in the L2 cache by
// the gather and multiplied at once by register tiles.
//
// C: rows are cut into a number of slots given by the problem size; a slot is one task with its own d x e partial sum,
// and the slots are added in order. With a.upper only entries j >= i are gathered (half the traffic): T = X^T U X with
// U + U^T = A, and C = T + T^T.
//
// Precision policy: sums in T; kBlock rows in registers, then blocks into the slot, then slots in order. No result
// depends on the number of threads.
#include "sparse/cpu/graph_cov.h"

#include "sparse/cpu/gather.h"
#include "simd/memory.h"
#include "simd/parallel.h"
#include "simd/scratch.h"
#include "simd/tile.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

enum Slot { kCarry, kProduct, kRows };
constexpr int64_t kBlock = 120;             // rows of A Y: 60 KiB at 128 float columns; whole tiles of either shape
constexpr int64_t kSlotBytes = 24ll << 20;  // all partial sums together, unless four of them need more
constexpr int64_t kTaskRows = 8 * kBlock;

// Rows of A Y into column panels [panel][kBlock][kCols] of a block that begins at row `first`.
template <typename T>
struct PanelRows {
  T* panels;
  int64_t first;

  template <int V, bool kTail>
  inline __attribute__((always_inline)) void row(int64_t i, int64_t c, const Vec<T> (&acc)[V], const Tail<T>&) {
    constexpr int L = kLanes<T>, kVecs = Tile<T>::kVecs;
    T* out = panels + (i - first) * Tile<T>::kCols;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const int64_t at = c / L + v;  // masked lanes are zero: whole registers may be stored
      store(out + at / kVecs * (kBlock * Tile<T>::kCols) + at % kVecs * L, acc[v]);
    }
  }
};

// Rows of A Y as a row-major block that begins at row `first`.
template <typename T>
struct PlainRows {
  T* block;
  int64_t first, ld;

  template <int V, bool kTail>
  inline __attribute__((always_inline)) void row(int64_t i, int64_t c, const Vec<T> (&acc)[V], const Tail<T>&) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(block + (i - first) * ld + c + v * kLanes<T>, acc[v]);
  }
};

// slot[d x e] += X_block^T P_block, P in column panels.
template <typename T>
void add_outer(const T* x, int64_t ldx, int64_t rows, int64_t d, const T* panels, int64_t e, T* slot) {
  for (int64_t c = 0; c < e; c += Tile<T>::kCols)
    with_registers<Tile<T>>(e - c, [&](auto count) __attribute__((always_inline)) {
      constexpr int V = decltype(count)::value;
      for (int64_t i = 0; i < d; i += Tile<T>::kRows) {
        Vec<T> acc[Tile<T>::kRows][V];
        clear(acc);
        multiply<true, Tile<T>>(rows, x + i, ldx, panels + c * kBlock, acc);
        add_tile(acc, slot + i * e + c, e, d - i, e - c);
      }
    });
}

// acc[r][w] = u_r v_w, or 0 without them; only `rows` x `cols` of u and v exist.
template <typename T, int R, int V>
inline __attribute__((always_inline)) void rank_one(const T* u, const T* v, int64_t rows, int64_t cols,
                                                    Vec<T> (&acc)[R][V]) {
  clear(acc);
  if (u == nullptr) return;
  T row[V * kLanes<T>] = {}, column[R] = {};
  std::memcpy(row, v, min64(V * kLanes<T>, cols) * sizeof(T));
  std::memcpy(column, u, min64(R, rows) * sizeof(T));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int w = 0; w < V; ++w) acc[r][w] = column[r] * load(row + w * kLanes<T>);
}

// Registers of one tile written to out; only `rows` x `cols` of them are inside out.
template <typename T, int R, int V>
inline __attribute__((always_inline)) void put_tile(const Vec<T> (&acc)[R][V], T* out, int64_t ldo, int64_t rows,
                                                    int64_t cols) {
  constexpr int L = kLanes<T>;
  if (rows >= R && cols >= V * L) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(out + r * ldo + v * L, acc[r][v]);
    return;
  }
  T edge[V * L];
  for (int64_t r = 0; r < min64(R, rows); ++r) {
    for (int v = 0; v < V; ++v) store(edge + v * L, acc[r][v]);
    std::memcpy(out + r * ldo, edge, min64(V * L, cols) * sizeof(T));
  }
}

// out[rows x d] = P M + u v^T, P row-major, M in column panels of e rows, u (at the first row) and v possibly absent.
template <typename T>
void multiply_rows(const T* p, int64_t ldp, int64_t rows, int64_t e, const T* panels, int64_t d, const T* u, const T* v,
                   T* out, int64_t ldo) {
  for (int64_t c = 0; c < d; c += Wide<T>::kCols)
    with_registers<Wide<T>>(d - c, [&](auto count) __attribute__((always_inline)) {
      constexpr int V = decltype(count)::value;
      for (int64_t i = 0; i < rows; i += Wide<T>::kRows) {
        Vec<T> acc[Wide<T>::kRows][V];
        rank_one(u == nullptr ? nullptr : u + i, v + c, rows - i, d - c, acc);
        multiply<false, Wide<T>>(e, p + i * ldp, ldp, panels + c * e, acc);
        put_tile(acc, out + i * ldo + c, ldo, rows - i, d - c);
      }
    });
}

// Rows [begin, end) of x as they are, or in a padded copy when a register tile would read past their end.
template <typename T>
const T* padded_rows(const T* x, int64_t& ldx, int64_t begin, int64_t rows, int64_t d, T* padded) {
  const T* block = x + begin * ldx;
  if (d % Tile<T>::kRows == 0) return block;
  const int64_t ld = round_up(d, Tile<T>::kRows);
  for (int64_t r = 0; r < rows; ++r) {
    copy_all(padded + r * ld, block + r * ldx, d);
    for (int64_t k = d; k < ld; ++k) padded[r * ld + k] = 0;
  }
  ldx = ld;
  return padded;
}

}  // namespace

template <typename T>
int64_t graph_cov_slots(int64_t n, int64_t d, int64_t e) {
  const int64_t room = max64(4, min64(64, kSlotBytes / max64(1, d * e * static_cast<int64_t>(sizeof(T)))));
  return max64(1, min64(room, n / kTaskRows));
}

template <typename T>
void graph_cov(const GraphCovArgs<T>& p) {
  const int64_t size = p.d * p.e, slots = graph_cov_slots<T>(p.a.n, p.d, p.e);
  parallel_for(slots, p.threads, [&](int64_t s) {
    T* slot = p.slots + s * size;
    zero(slot, size);
    const int64_t begin = split_rows(p.a.indptr, p.a.n, s, slots), end = split_rows(p.a.indptr, p.a.n, s + 1, slots);
    T* carry = static_cast<T*>(scratch(kCarry, p.e * sizeof(T)));
    T* panels = static_cast<T*>(scratch(kProduct, kBlock * round_up(p.e, Tile<T>::kCols) * sizeof(T)));
    T* padded = static_cast<T*>(scratch(kRows, kBlock * round_up(p.d, Tile<T>::kRows) * sizeof(T)));
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t rows = min64(kBlock, end - i);
      PanelRows<T> sink{panels, i};
      gather_rows<Term::neighbours, T>(p.a, i, i + rows, {}, {p.y, p.ldy}, p.e, carry, sink);
      int64_t ldx = p.ldx;
      const T* x = padded_rows(p.x, ldx, i, rows, p.d, padded);
      add_outer(x, ldx, rows, p.d, panels, p.e, slot);
    }
  });
  parallel_for(p.d, p.threads, [&](int64_t k) {
    T* sum = p.slots + k * p.e;
    for (int64_t s = 1; s < slots; ++s)
      for (int64_t l = 0; l < p.e; ++l) sum[l] += sum[s * size + l];
    if (!p.a.upper) copy_all(p.out + k * p.e, sum, p.e);
  });
  if (p.a.upper)
    for (int64_t k = 0; k < p.d; ++k)
      for (int64_t l = 0; l < p.e; ++l) p.out[k * p.e + l] = p.slots[k * p.e + l] + p.slots[l * p.e + k];
}

template <typename T>
int64_t graph_cov_apply_workspace(int64_t e, int64_t d) {
  return max64(1, e * round_up(d, Wide<T>::kCols));
}

template <typename T>
void graph_cov_apply(const GraphCovApplyArgs<T>& p) {
  pack_columns<T>(p.m, p.ldm, 0, p.e, p.e, p.d, {}, p.panels);
  const int64_t tasks = max64(1, min64(4096, p.a.n / kTaskRows));
  parallel_for(tasks, p.threads, [&](int64_t t) {
    const int64_t begin = split_rows(p.a.indptr, p.a.n, t, tasks), end = split_rows(p.a.indptr, p.a.n, t + 1, tasks);
    const int64_t ld = round_up(max64(1, p.e), kLanes<T>);
    T* carry = static_cast<T*>(scratch(kCarry, p.e * sizeof(T)));
    T* block = static_cast<T*>(scratch(kProduct, kBlock * ld * sizeof(T)));
    for (int64_t i = begin; i < end; i += kBlock) {
      const int64_t rows = min64(kBlock, end - i);
      PlainRows<T> sink{block, i, ld};
      gather_rows<Term::neighbours, T>(p.a, i, i + rows, {}, {p.y, p.ldy}, p.e, carry, sink);
      const T* u = p.u == nullptr ? nullptr : p.u + i;
      multiply_rows(block, ld, rows, p.e, p.panels, p.d, u, p.v, p.out + i * p.ldo, p.ldo);
    }
  });
}

#define SSLSPEC_INSTANTIATE(T)                                     \
  template int64_t graph_cov_slots<T>(int64_t, int64_t, int64_t);  \
  template void graph_cov<T>(const GraphCovArgs<T>&);              \
  template int64_t graph_cov_apply_workspace<T>(int64_t, int64_t); \
  template void graph_cov_apply<T>(const GraphCovApplyArgs<T>&);
SSLSPEC_INSTANTIATE(float)
SSLSPEC_INSTANTIATE(double)
#undef SSLSPEC_INSTANTIATE

}  // namespace sslspec::cpu::SSLSPEC_ISA

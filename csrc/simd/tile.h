// Register-blocked matrix tiles: the GEMM inside every dense kernel. Included by *.kernel.cpp only.
//
// Packed panels. A matrix X with rows x_i of length `depth` is stored as panels of kCols rows, [panel][depth][kCols],
// zero-padded to whole panels. kRows divides kCols, so the same panels serve as the left operand (kRows neighbouring
// values broadcast per step) and as the right one (kVecs registers per step). `pack_rows` makes panels along the rows
// of X (for X Y^T), `pack_columns` wider ones along its columns (for E X, see Wide).
//
// The products go through a policy, Exact<T> or, in simd/bf16/pairs.h, pairs of bfloat16 that fill a float:
// the same panels, loops and tiles, with half the steps.
//
// Precision policy: products are accumulated in T, in a fixed order given by the shapes alone.
#pragma once
#include "simd/transpose.h"
#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

template <typename T>
struct Tile {
#if defined(__AVX512F__)
  static constexpr int kRows = 8, kVecs = 3;  // 24 accumulators + 3 + 1 of 32 registers
#elif defined(__aarch64__)
  static constexpr int kRows = 6, kVecs = 3;  // 18 accumulators + 3 + 6 of 32; four pipes of latency 4 want 16
#elif defined(__AVX2__)
  static constexpr int kRows = 4, kVecs = 3;  // 12 accumulators + 3 + 1 of 16 registers
#else
  static constexpr int kRows = 4, kVecs = 2;
#endif
  static constexpr int kCols = kVecs * kLanes<T>;
  static constexpr int kDepth = 128;  // depth of one pass: a right-hand panel of kDepth steps stays in the L1 cache
  static constexpr int kBlock = 192;  // largest block of rows of one task: a tile of kBlock^2 stays in the L2 cache
  // Leading dimension of a stored tile. An odd number of cache lines: its columns are read down, line by line, and must
  // not fall into a few sets of the cache.
  static constexpr int kLd = kBlock + kLanes<T>;
  static_assert(kCols % kRows == 0 && kBlock % kCols == 0);
};

// The shape for E X, where only X is in panels. Fewer rows and wider panels load less per product than Tile, and 64
// columns divide the usual dimensions (measured at d = 128: 8 - 10 % faster).
template <typename T>
struct Wide {
#if defined(__AVX512F__)
  static constexpr int kRows = 6, kVecs = 4;  // 24 accumulators + 4 + 1 of 32 registers
#elif defined(__aarch64__)
  static constexpr int kRows = 4, kVecs = 4;  // 16 accumulators + 4 + 4 of 32 registers
#else
  static constexpr int kRows = 6, kVecs = 2;  // 12 accumulators + 2 + 1 of 16 registers
#endif
  static constexpr int kCols = kVecs * kLanes<T>;
  static constexpr int kDepth = 96;  // depth of one pass: its right-hand panel stays in the L1 cache
  static_assert(Tile<T>::kBlock % kRows == 0);
};

template <typename Number>
struct Exact {
  using T = Number;
  static inline __attribute__((always_inline)) Vec<T> broadcast(const T* a) { return splat(*a); }
  static inline __attribute__((always_inline)) void add(Vec<T>& sum, Vec<T> a, Vec<T> b) { sum += a * b; }
};

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// A factor of each row, scale[i * step]; null: none.
template <typename T>
struct RowScale {
  const T* scale = nullptr;
  int64_t step = 0;
  T operator[](int64_t i) const { return scale == nullptr ? T(1) : scale[i * step]; }
};

// Rows [r0, r1) of scale_i * x (row stride ldx) into panels; r0 is a multiple of kCols. Returns max_i ||scale_i
// x_i||^2.
template <typename T>
T pack_rows(const T* x, int64_t ldx, int64_t r0, int64_t r1, int64_t depth, RowScale<T> scale, T* panels) {
  constexpr int kCols = Tile<T>::kCols, L = kLanes<T>;
  T largest = 0;
  for (int64_t p = r0; p < r0 + round_up(r1 - r0, kCols); p += L) {  // L rows, one register at every depth
    const int64_t rows = max64(0, min64(L, r1 - p)), panel = r0 + (p - r0) / kCols * kCols;
    T* out = panels + panel * depth + (p - panel);
    T factor[L] = {};
    for (int64_t l = 0; l < rows; ++l) factor[l] = scale[p + l];
    const Vec<T> s = load(factor);
    Vec<T> norm{};
    const auto put = [&](int64_t k, Vec<T> v) __attribute__((always_inline)) {
      v *= s;
      norm += v * v;
      store(out + k * kCols, v);
    };
    int64_t k = 0;
    if (rows == L)
      for (; k + L <= depth; k += L) {
        Vec<T> m[L];
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) {
          m[l] = load(x + (p + l) * ldx + k);
          ask_for<L>(x + (p + L + l) * ldx + k);  // the rows that come next
        }
        transpose<T>(m);
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) put(k + l, m[l]);
      }
    for (; k < depth; ++k) {
      T v[L] = {};
      for (int64_t l = 0; l < rows; ++l) v[l] = x[(p + l) * ldx + k];
      put(k, load(v));
    }
    for (int64_t l = 0; l < rows; ++l)
      if (!(norm[l] <= largest)) largest = norm[l];  // keeps NaN
  }
  return largest;
}

// Rows [r0, r1) of scale_i * x (n rows, d columns) into column panels [ceil(d / kCols)][n][kCols] of Wide.
template <typename T>
void pack_columns(const T* x, int64_t ldx, int64_t r0, int64_t r1, int64_t n, int64_t d, RowScale<T> scale, T* panels) {
  constexpr int kCols = Wide<T>::kCols;
  constexpr int64_t kRowsAhead = 8;
  for (int64_t c = 0; c < d; c += kCols) {
    const int64_t cols = min64(kCols, d - c);
    for (int64_t r = r0; r < r1; ++r) {
      const T* in = x + r * ldx + c;
      T* out = panels + c * n + r * kCols;
      const T s = scale[r];
      if (cols == kCols) {
        ask_for<kCols>(in + kRowsAhead * ldx);
#pragma GCC unroll 4
        for (int v = 0; v < Wide<T>::kVecs; ++v) store(out + v * kLanes<T>, s * load(in + v * kLanes<T>));
      } else {
        for (int64_t k = 0; k < kCols; ++k) out[k] = k < cols ? s * in[k] : T(0);
      }
    }
  }
}

// acc[r][v] += sum_k a(r, k) * b[k][v] by Op for v < N, for panels b of Shape (Tile or Wide); a(r, k) = a[r + k * step]
// when kRowsTogether, else a[r * step + k].
template <bool kRowsTogether, typename Shape, typename Op, int N, int V, typename T = typename Op::T>
inline __attribute__((always_inline)) void multiply_by(int64_t depth, const T* a, int64_t step, const T* b,
                                                       Vec<T> (&acc)[Shape::kRows][V]) {
  constexpr int R = Shape::kRows;
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> bv[N];
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) bv[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> av = Op::broadcast(kRowsTogether ? a + r : a + r * step);
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) Op::add(acc[r][v], av, bv[v]);
    }
    a += kRowsTogether ? step : 1;
    b += Shape::kCols;
  }
}
template <bool kRowsTogether, typename Shape, int V, typename T>
inline __attribute__((always_inline)) void multiply(int64_t depth, const T* a, int64_t step, const T* b,
                                                    Vec<T> (&acc)[Shape::kRows][V]) {
  multiply_by<kRowsTogether, Shape, Exact<T>, V>(depth, a, step, b, acc);
}

// f(the number of registers, as a constant, that cover `width` columns of a panel of Shape)
template <int N>
struct Count {
  static constexpr int value = N;
};
template <typename Shape, int N = Shape::kVecs, typename F>
inline __attribute__((always_inline)) void with_registers(int64_t width, const F& f) {
  if constexpr (N > 1) {
    if (width <= (N - 1) * (Shape::kCols / Shape::kVecs)) return with_registers<Shape, N - 1>(width, f);
  }
  f(Count<N>{});
}

template <typename Register, int R, int V>
inline __attribute__((always_inline)) void clear(Register (&acc)[R][V]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[r][v] = Register{};
}

// Of the panel of Shape that a product reads next, the part that each register tile of kBlock rows asks for.
template <typename Shape, typename T>
constexpr int64_t kAskedFor = Shape::kCols * Shape::kDepth / (Tile<T>::kBlock / Shape::kRows);

struct Block {
  int64_t i0, ni, j0, nj;
};

// One block of X Y^T: rows [i0, i0 + ni) x [j0, j0 + nj), i0 and j0 multiples of kCols, from row panels.
// For every register tile calls finish(i, j, acc) with i, j relative to the block; the tile covers rows i .. i + kRows
// and columns j .. j + kCols, padding included; registers without a column inside the block are not multiplied. `partial`
// (leading dimension ld) holds sums between depth passes, and with `onto` those that this product adds to.
template <typename T, typename Op = Exact<T>, typename Finish>
inline __attribute__((always_inline)) void block_product(int64_t depth, const T* x_panels, const T* y_panels,
                                                         Block block, T* partial, int64_t ld, const Finish& finish,
                                                         bool onto = false) {
  using P = Tile<T>;
  const int64_t i0 = block.i0, ni = block.ni, j0 = block.j0, nj = block.nj;
  constexpr int R = P::kRows, V = P::kVecs, L = kLanes<T>;
  for (int64_t k0 = 0; k0 < depth || k0 == 0; k0 += P::kDepth) {
    const int64_t steps = min64(P::kDepth, depth - k0);
    const bool first = k0 == 0, last = k0 + P::kDepth >= depth;
    for (int64_t j = 0; j < nj; j += P::kCols) {
      const T* b = y_panels + (j0 + j) * depth + k0 * P::kCols;
      const T* next = j + P::kCols < nj ? b + P::kCols * depth  // behind the last panel: of the next depth or block
                      : last            ? y_panels + (j0 + nj) * depth
                                        : y_panels + j0 * depth + (k0 + P::kDepth) * P::kCols;
      for (int64_t i = 0; i < ni; i += R) {
        ask_for<kAskedFor<P, T>>(next);
        next += kAskedFor<P, T>;
        const int64_t row = i0 + i, panel = row / P::kCols * P::kCols;
        const T* a = x_panels + panel * depth + k0 * P::kCols + (row - panel);
        Vec<T> acc[R][V];
        clear(acc);
        with_registers<P>(nj - j, [&](auto count) __attribute__((always_inline)) {
          multiply_by<true, P, Op, decltype(count)::value>(steps, a, P::kCols, b, acc);
        });
        if (!first || onto)
          for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) acc[r][v] += load(partial + (i + r) * ld + j + v * L);
        if (last)
          finish(i, j, acc);
        else
          for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) store(partial + (i + r) * ld + j + v * L, acc[r][v]);
      }
    }
  }
}

// Registers of one tile added to out (leading dimension ldo); only `rows` x `cols` of them are inside out.
template <typename T, int R, int V>
inline __attribute__((always_inline)) void add_tile(const Vec<T> (&acc)[R][V], T* out, int64_t ldo, int64_t rows,
                                                    int64_t cols) {
  constexpr int L = kLanes<T>;
  if (rows >= R && cols >= V * L) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(out + r * ldo + v * L, load(out + r * ldo + v * L) + acc[r][v]);
    return;
  }
  T edge[V * L];
  for (int64_t r = 0; r < min64(R, rows); ++r) {
    for (int v = 0; v < V; ++v) store(edge + v * L, acc[r][v]);
    for (int64_t c = 0; c < min64(V * L, cols); ++c) out[r * ldo + c] += edge[c];
  }
}

// Rows of a panel, and those that are read after them.
template <typename T>
struct ReadPanel {
  const T *data, *next;
};

// out[rows x cols] += E X for one column panel of width V registers.
// E(i, k) = e[i * lde + k], or e[k * lde + i] when kTransposed; b: X's panel rows from k = 0 on.
template <bool kTransposed, int V, typename Op, typename T>
void accumulate_panel(const T* e, int64_t lde, int64_t rows, int64_t depth, ReadPanel<T> b, T* out, int64_t ldo,
                      int64_t cols) {
  constexpr int R = Wide<T>::kRows;
  for (int64_t i = 0; i < rows; i += R) {
    Vec<T> acc[R][V];
    clear(acc);
    ask_for<kAskedFor<Wide<T>, T>>(b.next);
    b.next += kAskedFor<Wide<T>, T>;
    // The rows of out come from a farther cache than E and X: ask for them before the product, not after it.
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) __builtin_prefetch(out + (i + r) * ldo + v * kLanes<T>, 1);
    multiply_by<kTransposed, Wide<T>, Op, V>(depth, kTransposed ? e + i : e + i * lde, lde, b.data, acc);
    add_tile(acc, out + i * ldo, ldo, rows - i, cols);
  }
}

// Column panels of a matrix of n rows, from its row `first` on.
template <typename T>
struct ColumnPanels {
  const T* data;
  int64_t n, first;
};

// out[rows x d] += E X (or E^T X). E must be readable for whole
// register tiles: round_up(rows, Wide::kRows) rows (columns when transposed).
template <bool kTransposed, typename Op, typename T = typename Op::T>
void block_accumulate_by(const T* e, int64_t lde, int64_t rows, int64_t depth, ColumnPanels<T> x, T* out, int64_t ldo,
                         int64_t d) {
  using P = Wide<T>;
  for (int64_t k = 0; k < depth; k += P::kDepth)
    for (int64_t c = 0; c < d; c += P::kCols) {
      const T* part = kTransposed ? e + k * lde : e + k;
      const T* b = x.data + c * x.n + (x.first + k) * P::kCols;
      const T* next = c + P::kCols < d ? b + P::kCols * x.n : x.data + (x.first + k + P::kDepth) * P::kCols;
      with_registers<P>(d - c, [&](auto count) __attribute__((always_inline)) {
        accumulate_panel<kTransposed, decltype(count)::value, Op>(part, lde, rows, min64(P::kDepth, depth - k),
                                                                  {b, next}, out + c, ldo, d - c);
      });
    }
}
template <bool kTransposed, typename T>
void block_accumulate(const T* e, int64_t lde, int64_t rows, int64_t depth, ColumnPanels<T> x, T* out, int64_t ldo,
                      int64_t d) {
  block_accumulate_by<kTransposed, Exact<T>>(e, lde, rows, depth, x, out, ldo, d);
}

}  // namespace
}  // namespace sslspec::cpu

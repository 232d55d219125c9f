// Squared norm of X^T Y and its gradient on the cheaper side, without storing the d x d or the n x n matrix.
//
// On either side the Gram matrix is m x m with products over `depth`: m = n, depth = d (dual, S = X X^T) or m = d,
// depth = n (primal, C = X^T Y). It is visited by pairs of blocks; all threads share one pair, in three steps:
//   1. products: slices of the depth in parallel, each packed in cache and multiplied into its own partial tile,
//   2. reduce: sum of the partial tiles, masking, squares in fp64, and the tile rewritten as panels for step 3,
//   3. gradient: column groups (dual, S X) or row groups (primal, X C) in parallel.
// Symmetric tiles are made once and used for both blocks: 3 m^2 depth flops for the value and the gradient.
// Memory traffic per pair: the rows are read twice and the gradient is written once; nothing is copied beside caches.
//
// Precision policy: products in cells (cells.h) over slices of fixed size, squares and diagonals in fp64; the order of
// all sums is given by the shapes alone. Where products are of bfloat16 numbers, the standardised rows are rounded and,
// in step 3, the weights alpha S off the diagonal. That diagonal is most of S: its products, the added terms, the
// diagonal that is left out and the projection take everything as it is. Included by *.kernel.cpp and *.bf16.cpp only.
#pragma once
#include "gram/cpu/gram.h"

#include "gram/cpu/added.h"
#include "gram/cpu/cells.h"
#include "gram/cpu/pack.h"
#include "gram/cpu/tile.h"
#include "simd/parallel.h"
#include "simd/scratch.h"

namespace sslspec::cpu {
namespace {

// In: the cells of its products. Value: what the rows hold in memory.
template <typename In, typename Value = typename In::T>
struct Squares {
  using Op = typename In::Op;
  using T = typename Op::T;
  using Rows = Standardised<T, Value>;
  using S = Steps<Op>;
  static constexpr int R = Tile<T>::kRows, L = kLanes<T>, kCols = Tile<T>::kCols;
  static constexpr bool kRounds = S::kNumbers > 1;
  static constexpr int64_t kMaxUnits = Layout<Op>::kMaxUnits, kChunk = Layout<Op>::kChunk;

  const GramArgs<T, Value>& p;
  Layout<Op> w;
  Rows xs[2];
  const T *own[2], *other[2];
  bool wants_grad, symmetric;  // symmetric: every tile serves its row block and its column block
  int threads;

  struct Pair {
    int64_t i0, ni, j0, nj;
    bool diagonal;
  };

  explicit Squares(const GramArgs<T, Value>& args)
      : p(args), w(args.workspace, args.n, args.d, args.operands, args.cross, args.dual) {
    const bool correct = p.off_diagonal && w.dual;
    for (int o = 0; o < p.operands; ++o) {
      xs[o] = {p.x[o], p.ldx[o], p.shift[o], p.scale[o]};
      own[o] = p.own[o], other[o] = p.other[o];
      if (!correct) continue;
      // the gradient of -sum_k C_kk^2: C_kk = |xs_k|^2 in the self form, xs_k . ys_k in the cross form
      const double* diagonal = p.diagonal + (p.cross ? 0 : o * p.d);
      const T*& term = p.cross ? other[o] : own[o];
      T* out = (p.cross ? w.other : w.own) + o * p.d;
      for (int64_t k = 0; k < p.d; ++k) out[k] = static_cast<T>((term ? double(term[k]) : 0.0) - p.alpha * diagonal[k]);
      term = out;
    }
    wants_grad = p.grad[0] != nullptr || p.grad[1] != nullptr;
    symmetric = w.dual || !p.cross;
    threads = 6.0 * double(w.m) * double(w.m) * double(w.depth) < kSerial ? 1 : p.threads;
  }

  void run() const {
    const int values = p.cross ? 1 : p.operands;
    for (int v = 0; v < values; ++v) p.value[v] = 0;
    for (int64_t b = 0; b < w.blocks; ++b) pair(b, b);  // first: these initialise the gradient
    for (int64_t i = 0; i < w.blocks; ++i)
      for (int64_t j = symmetric ? i + 1 : 0; j < w.blocks; ++j)
        if (i != j) pair(i, j);
    if (p.off_diagonal && w.dual)
      for (int v = 0; v < values; ++v) {
        double sum = 0;
        for (int64_t k = 0; k < p.d; ++k) sum += p.diagonal[v * p.d + k] * p.diagonal[v * p.d + k];
        p.value[v] -= sum;
      }
    if (p.project && !projects_in_tasks())
      parallel_for(ceil_div(p.d, kGroup), threads,
                   [&](int64_t g) { project(g * kGroup, min64(p.d, (g + 1) * kGroup)); });
  }

  bool projects_in_tasks() const { return w.dual && w.blocks == 1; }

  void pair(int64_t bi, int64_t bj) const {
    const Pair q{w.begin(bi), w.begin(bi + 1) - w.begin(bi), w.begin(bj), w.begin(bj + 1) - w.begin(bj), bi == bj};
    parallel_for(w.tiles * w.slices, threads,
                 [&](int64_t t) { products(q, static_cast<int>(t / w.slices), t % w.slices); });
    const int64_t across = ceil_div(q.nj, kUnit), down = ceil_div(q.ni, kUnit);
    double sums[kMaxUnits * kMaxUnits][2] = {};
    parallel_for(across * down, threads, [&](int64_t t) { reduce(q, t / across, t % across, sums[t]); });
    for (int64_t t = 0; t < across * down; ++t)
      for (int v = 0; v < (p.cross ? 1 : p.operands); ++v) p.value[v] += sums[t][v];
    if (!wants_grad) return;
    const int64_t groups = ceil_div(p.d, kGroup), tasks = ceil_div(groups, kGroups);
    if (w.dual)
      parallel_for(tasks, threads, [&](int64_t t) {
        for (int64_t g = groups * t / tasks; g < groups * (t + 1) / tasks; ++g)
          dual_gradient(q, g * kGroup, g + 1 < groups * (t + 1) / tasks);
      });
    else
      parallel_for(ceil_div(p.n, kRowGroup), threads, [&](int64_t g) { primal_gradient(q, g * kRowGroup); });
  }

  // ---- 1. partial tiles, [panel][row][kCols] -------------------------------------------------------------------
  T* partial(int tile, int64_t slice) const { return w.partial + (slice * w.tiles + tile) * w.block * w.block; }

  void products(const Pair& q, int tile, int64_t slice) const {
    const int right = w.tiles == 1 && p.cross ? 1 : tile;  // tile 0 of the primal cross form is X^T Y
    const bool upper = q.diagonal && symmetric;
    const size_t bytes = sizeof(T) * static_cast<size_t>(w.block * kChunk);
    T* a = static_cast<T*>(scratch(0, bytes));
    T* b = upper ? a : static_cast<T*>(scratch(1, bytes));
    const int64_t chunks = ceil_div(w.depth, kChunk), end = chunks * (slice + 1) / w.slices;
    bool first = true;
    for (int64_t c = chunks * slice / w.slices; c < end; ++c, first = false) {
      const int64_t k0 = c * kChunk, depth = min64(kChunk, w.depth - k0), steps = S::of(depth);
      pack(xs[tile], q.i0, q.ni, k0, depth, a);
      const T* const left = In::left_of(a, q.ni, steps);
      const typename In::Registers registers(steps);
      if (!upper) pack(xs[right], q.j0, q.nj, k0, depth, b);
      const int64_t next = c + 1 < end ? min64(kChunk, w.depth - k0 - depth) : 0;
      Ahead ahead[2] = {soon(xs[tile], q.i0, q.ni, k0 + depth, next),
                        soon(xs[right], q.j0, upper ? 0 : q.nj, k0 + depth, next)};
      for (int64_t j = 0; j < q.nj; j += kCols) {
        const T* panel = b + j * steps;
        T* out = partial(tile, slice) + j * w.block;
        const int64_t rows = upper ? min64(q.ni, j) : q.ni;
        with_registers<Tile<T>>(q.nj - j, [&](auto count) __attribute__((always_inline)) {
          panel_product<decltype(count)::value>(steps, left, 0, rows, panel, out, first, ahead);
        });
        if (!upper) continue;
        // the diagonal: its upper triangle, in steps of whole registers and tiles; reduce() mirrors it
        constexpr int64_t step = L > R ? L : R;
        for (int64_t r = 0; r < min64(kCols, q.nj - j); r += step)
          with_registers<Tile<T>>(min64(kCols, q.nj - j) - r, [&](auto count) __attribute__((always_inline)) {
            panel_product<decltype(count)::value>(steps, left, j + r, min64(q.ni, j + r + step), panel + r, out + r,
                                                  first, ahead);
          });
      }
    }
  }

  Ahead soon(const Rows& x, int64_t i0, int64_t ni, int64_t k0, int64_t depth) const {
    return w.dual ? Ahead::of(x, i0, depth > 0 ? ni : 0, k0, depth) : Ahead::of(x, k0, ni > 0 ? depth : 0, i0, ni);
  }

  void pack(const Rows& x, int64_t i0, int64_t ni, int64_t k0, int64_t depth, T* panels) const {
    if (w.dual)
      pack_depth<Op>(x, i0, ni, k0, depth, panels);
    else
      pack_width<Op>(x, i0, ni, k0, depth, panels);
  }

  template <int W>
  static void panel_product(int64_t steps, const T* a, int64_t i0, int64_t i1, const T* b, T* out, bool first,
                            Ahead (&ahead)[2]) {
    for (int64_t i = i0; i < i1; i += In::kRows) {
      for (Ahead& rows : ahead) rows.fetch(kLines * In::kRows / R);
      In::template sum<W>(In::of_panels(a, i, steps), steps, b, out + i * kCols, first);
    }
  }

  // ---- 2. one unit x unit part of the tile: rows bi, columns bj of the pair ----------------------------------------
  void reduce(const Pair& q, int64_t bi, int64_t bj, double* sums) const {
    const bool upper = q.diagonal && symmetric;
    if (upper && bi > bj) return;
    const int64_t i0 = bi * kUnit, j0 = bj * kUnit;
    const int64_t rows = min64(kUnit, q.ni - i0), cols = min64(kUnit, q.nj - j0);
    T s[2][kUnit * kUnit];
    for (int o = 0; o < w.tiles; ++o) {
      __builtin_memset(s[o], 0, sizeof(s[o]));
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; j += L) {
          const int64_t at = (j0 + j) / kCols * kCols * w.block + (i0 + i) * kCols + (j0 + j) % kCols;
          Vec<T> sum = load(partial(o, 0) + at);
          for (int64_t t = 1; t < w.slices; ++t) sum += load(partial(o, t) + at);
          store(s[o] + i * kUnit + j, sum);
        }
      if (upper && bi == bj)
        for (int64_t i = 0; i < kUnit; ++i)
          for (int64_t j = 0; j < i; ++j) s[o][i * kUnit + j] = s[o][j * kUnit + i];
      if (p.off_diagonal && !w.dual && q.diagonal && bi == bj)
        for (int64_t i = 0; i < kUnit; ++i) s[o][i * kUnit + i] = 0;
    }
    const double weight = symmetric && !(q.diagonal && bi == bj) ? 2 : 1;
    if (p.tail != nullptr) {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) {
          const T row = p.tail[q.i0 + i0 + i], col = p.tail[q.j0 + j0 + j];
          s[1][i * kUnit + j] = s[0][i * kUnit + j];
          s[0][i * kUnit + j] *= row < col ? row : col;
        }
      sums[0] = weight * inner(s[0], s[1], rows, cols);
    } else if (p.cross && w.tiles == 2)
      sums[0] = weight * inner(s[0], s[1], rows, cols);
    else
      for (int o = 0; o < w.tiles; ++o) sums[o] = weight * inner(s[o], s[o], rows, cols);
    if (!wants_grad) return;
    typename S::Value memory[S::kNumbers == 1 ? 1 : kUnit * kUnit];
    for (int o = 0; o < w.tiles; ++o) {
      T *column = w.by_column + o * w.block * w.block, *row = w.by_row + o * w.block * w.block;
      if (upper) row = column;
      for (int64_t i = 0; i < kUnit * kUnit; ++i) s[o][i] *= static_cast<T>(p.alpha);
      if (kRounds && q.diagonal && bi == bj)
        for (int64_t i = 0; i < kUnit; ++i) {
          w.diagonal[o * w.block + i0 + i] = s[o][i * kUnit + i];
          s[o][i * kUnit + i] = 0;
        }
      if (upper && bi == bj) row = nullptr;
      const typename S::Value* weights = S::rounded(s[o], kUnit * kUnit, memory);
      if (w.dual)
        In::emit_left(weights, i0, j0, w.block, column, row);
      else
        emit<Op, kCols>(weights, i0, j0, w.block, column, row);
    }
  }

  // ---- 3. the gradient ---------------------------------------------------------------------------------------------
  struct Part {  // of the gradient of operand o: rows from i0, columns from c0 on
    int o;
    int64_t i0, rows, c0, width;
    bool first;  // nothing was written yet
  };

  // What row `row` and column k on bring along; `at`: where that is on the diagonal of the pair of blocks.
  Added<T, Value> added(int o, int64_t row, int64_t k, int64_t at) const {
    const Rows* partner = p.operands == 2 ? &xs[1 - o] : nullptr;
    Added<T, Value> e{&xs[o], partner, row, k, own[o], other[o], p.near};
    if (!kRounds) return e;
    const T* diagonal = w.diagonal + (w.tiles == 1 ? 0 : p.cross ? 1 - o : o) * w.block + at;
    (w.dual ? e.of_row : p.cross ? e.of_partner : e.of_column) = diagonal;
    return e;
  }

  // acc onto the gradient at row i and column c of the part, with what else it holds there if it is the first; `at`: where
  // that is on the diagonal of the pair of blocks.
  template <int W>
  inline __attribute__((always_inline)) void add_cell(const Part& to, int64_t i, int64_t c, int64_t at,
                                                      const Vec<T> (&acc)[R][W]) const {
    T* const out = p.grad[to.o] + (to.i0 + i) * p.d + to.c0 + c;
    if (to.first)
      added(to.o, to.i0 + i, to.c0 + c, at).store_with(acc, out, p.d, to.rows - i, to.width - c);
    else
      add_tile(acc, out, p.d, to.rows - i, to.width - c);
  }

  // Columns [c0, c0 + kGroup): grad_I += S_IJ X_J and, off the diagonal, grad_J += S_JI X_I.
  void dual_gradient(const Pair& q, int64_t c0, bool more) const {
    const int64_t width = min64(kGroup, p.d - c0), size = kGroup * w.block;
    T* of_i = static_cast<T*>(scratch(2, sizeof(T) * static_cast<size_t>(2 * size)));
    T* of_j = q.diagonal ? of_i : of_i + size;
    const int64_t next = more ? min64(kGroup, p.d - c0 - width) : 0;
    for (int o = 0; o < p.operands; ++o) {
      if (p.grad[o] == nullptr) continue;
      pack_width<Op>(xs[o], c0, width, q.i0, q.ni, of_i);
      if (!q.diagonal) pack_width<Op>(xs[o], c0, width, q.j0, q.nj, of_j);
      Ahead ahead[2] = {Ahead::of(xs[o], q.i0, next > 0 ? q.ni : 0, c0 + width, next),
                        Ahead::of(xs[o], q.j0, next > 0 && !q.diagonal ? q.nj : 0, c0 + width, next)};
      const int64_t tile = (p.cross ? 1 - o : o) * w.block * w.block;
      if (q.diagonal) {
        rows_times(w.by_column + tile, q.nj, of_j, {o, q.i0, q.ni, c0, width, true}, ahead[0]);
      } else {
        rows_times(w.by_row + tile, q.nj, of_j, {o, q.i0, q.ni, c0, width, false}, ahead[0]);
        rows_times(w.by_column + tile, q.ni, of_i, {o, q.j0, q.nj, c0, width, false}, ahead[1]);
      }
    }
    if (p.project && projects_in_tasks()) project(c0, c0 + width);
  }

  // to (+)= S panels: S in panels of R rows [panel][step][R], the operand in panels of columns.
  void rows_times(const T* s, int64_t depth, const T* panels, const Part& to, Ahead& ahead) const {
    const int64_t steps = S::of(depth);
    const typename In::Registers registers(steps);
    T* grad = p.grad[to.o] + to.i0 * p.d + to.c0;
    for (int64_t c = 0; c < to.width; c += kCols)
      with_registers<Tile<T>>(to.width - c, [&](auto count) __attribute__((always_inline)) {
        constexpr int W = decltype(count)::value;
        for (int64_t i = 0; i < to.rows; i += In::kRows) {
          ahead.fetch(kLines * In::kRows / R);
          for (int r = 0; r < In::kRows; ++r)
            for (int v = 0; v < W; ++v) __builtin_prefetch(grad + min64(i + r, to.rows - 1) * p.d + c + v * L, 1, 3);
          In::template product<true, W>(In::of_weights(s, i, w.block), steps, panels + c * steps,
                                        [&](int64_t r, const Vec<T>(&acc)[R][W])
                                            __attribute__((always_inline)) { add_cell(to, i + r, c, i + r, acc); });
        }
      });
  }

  // Rows [r0, r0 + kRowGroup): grad_J += X_I C_IJ and grad_I += X_J C_JI, with the partner's rows in the cross form.
  void primal_gradient(const Pair& q, int64_t r0) const {
    const int64_t rows = min64(kRowGroup, p.n - r0), size = kRowGroup * w.block;
    T* of_i = static_cast<T*>(scratch(2, sizeof(T) * static_cast<size_t>(2 * size)));
    T* of_j = q.diagonal ? of_i : of_i + size;
    for (int o = 0; o < p.operands; ++o) {
      if (p.grad[o] == nullptr) continue;
      const Rows& partner = xs[p.cross ? 1 - o : o];
      for (int64_t r = 0; r < rows; ++r) {
        copy_along<Op>(partner, r0 + r, q.i0, q.ni, S::of(w.block), of_i + r * w.block);
        if (!q.diagonal) copy_along<Op>(partner, r0 + r, q.j0, q.nj, S::of(w.block), of_j + r * w.block);
      }
      const int64_t tile = (p.cross ? 0 : o) * w.block * w.block;
      const bool into_j = !p.cross || o == 1, into_i = p.cross ? o == 0 : !q.diagonal;
      if (into_j) times_panels(of_i, q.ni, w.by_column + tile, {o, r0, rows, q.j0, q.nj, q.diagonal});
      if (into_i) times_panels(of_j, q.nj, w.by_row + tile, {o, r0, rows, q.i0, q.ni, q.diagonal});
    }
  }

  // to (+)= X C: X by rows of stride block, C in panels of columns [panel][step][kCols].
  void times_panels(const T* x, int64_t depth, const T* panels, const Part& to) const {
    const typename In::Registers registers(S::of(depth));
    for (int64_t c = 0; c < to.width; c += kCols)
      with_registers<Tile<T>>(to.width - c, [&](auto count) __attribute__((always_inline)) {
        constexpr int W = decltype(count)::value;
        for (int64_t i = 0; i < to.rows; i += In::kRows)
          In::template product<false, W>(In::of_rows(x, i, w.block), S::of(depth), panels + c * w.block,
                                         [&](int64_t r, const Vec<T>(&acc)[R][W])
                                             __attribute__((always_inline)) { add_cell(to, i + r, c, c, acc); });
      });
  }

  // grad_x = scale (grad_xs - xs mean_i(grad_xs xs)) for columns [c0, c1); mean_i(grad_xs) vanishes when xs is centred.
  void project(int64_t c0, int64_t c1) const {
    for (int o = 0; o < p.operands; ++o) {
      if (p.grad[o] == nullptr) continue;
      const T *shift = p.shift[o] + c0, *scale = p.scale[o] + c0;
      const int64_t width = c1 - c0;
      double dot[kGroup] = {};
      T row[kGroup];
      for (int64_t i0 = 0; i0 < p.n; i0 += 64) {
        T sum[kGroup] = {};
        for (int64_t i = i0; i < min64(p.n, i0 + 64); ++i) {
          const T* x = wide_row(p.x[o] + i * p.ldx[o] + c0, width, row);
          const T* g = p.grad[o] + i * p.d + c0;
          for (int64_t k = 0; k < width; ++k) sum[k] += g[k] * ((x[k] - shift[k]) * scale[k]);
        }
        for (int64_t k = 0; k < width; ++k) dot[k] += sum[k];
      }
      T mean[kGroup];
      for (int64_t k = 0; k < width; ++k) mean[k] = static_cast<T>(dot[k] / double(p.n));
      for (int64_t i = 0; i < p.n; ++i) {
        const T* __restrict x = wide_row(p.x[o] + i * p.ldx[o] + c0, width, row);
        T* __restrict g = p.grad[o] + i * p.d + c0;
        for (int64_t k = 0; k < width; ++k) g[k] = (g[k] - (x[k] - shift[k]) * scale[k] * mean[k]) * scale[k];
      }
    }
  }
};

}  // namespace
}  // namespace sslspec::cpu

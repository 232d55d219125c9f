// Softmax rows whose negatives a guide selects, and their gradient: the sides of the batch are rows of one symmetric
// problem. A task is a pair of blocks of any two sides (pair_schedule.h). Its products serve the rows of both blocks,
// each with its own bound on the guide's product, in the sums and in the gradient: six products of n^2 d for a query's
// keys and queries and a key's keys, where one softmax after the other would need nine.
//
// A row of the loss is a row of queries and one of keys; both use its bound, its statistics and its weight.
//
// The guide's products of a block are made first, with infinity in the pairs that are no logits in any case. They and
// those of the rows are kept for the gradient as far as there is room (simd/kept.h), and made again elsewhere.
//
// Shift: as in softmax.h. Precision policy: everything in T, sums over sides and the loss of a row in fp64; the order of
// all sums is given by the shapes alone.
#include "fused/cpu/guided.h"

#include <limits>

#include "pairwise/cpu/softmax.h"
#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

constexpr int kSides = 3;

template <typename T>
struct GuidedBuffers {
  T *panels[kSides], *columns[kSides], *guides[kSides], *norms;
  T *sum[2], *top[2];         // of the rows of a side: exponentials, and their shift
  T *bound, *shift, *weight;  // of the rows of the loss
  int64_t size = 0;

  GuidedBuffers(T* base, const GuidedSizes& s, bool backward) {
    auto take = [&](int64_t count) {
      T* p = base == nullptr ? nullptr : base + size;
      size += round_up(count, 64);
      return p;
    };
    int64_t blocks = 0;
    for (int side = 0; side < kSides; ++side) {
      const int64_t padded = round_up(s.rows(side), Blocks::kUnit);
      panels[side] = take(padded * s.d);
      guides[side] = take(padded * s.e);
      columns[side] = backward ? take(round_up(s.d, Wide<T>::kCols) * s.rows(side)) : nullptr;
      blocks += Blocks(s.rows(side)).count;
    }
    norms = take(blocks);
    const int64_t padded = round_up(s.n, Blocks::kUnit);
    for (T** x : {&sum[0], &sum[1], &top[0], &top[1], &bound, &shift, &weight}) *x = take(padded);
  }
};

template <typename T>
struct Guided {
  static constexpr int L = kLanes<T>, R = Tile<T>::kRows, V = Tile<T>::kVecs;
  static constexpr int64_t kLd = Tile<T>::kLd, kBlock = Tile<T>::kBlock, kCols = Tile<T>::kCols;
  static constexpr int64_t kLeastKept = 32;  // columns of products that take longer than a pass over memory
  static constexpr T kScale = static_cast<T>(kLog2e), kLeftOut = std::numeric_limits<T>::infinity();
  static constexpr int kKeyToQuery = 8;

  const GuidedArgs<T>& p;
  GuidedBuffers<T> w;
  const Blocks of_rows, of_negatives;
  int64_t all_blocks;
  T c;
  bool narrow = false;
  Kept kept;

  explicit Guided(const GuidedArgs<T>& args)
      : p(args), w(args.workspace, args.size, args.backward), of_rows(args.size.n), of_negatives(args.size.l),
        all_blocks(2 * of_rows.count + of_negatives.count), c(args.scale[0]), kept(args.backward ? kept_bytes() : 0) {
    pack();
  }

  // Whether rows of side s look at those of side t.
  bool looks(int s, int t) const {
    constexpr int kDirection[2][2] = {{2, 1}, {kKeyToQuery, 4}};
    return s == 0 && t == 2 ? true : s < 2 && t < 2 && (p.directions & kDirection[s][t]) != 0;
  }

  struct Rows {
    int side;
    int64_t begin, size, block;  // the number of the block on its side
    int64_t padded() const { return round_up(size, Blocks::kUnit); }
  };
  Rows rows_of(int64_t block) const {
    const int side = block < of_rows.count ? 0 : block < 2 * of_rows.count ? 1 : 2;
    const Blocks& blocks = side < 2 ? of_rows : of_negatives;
    const int64_t own = block - side * of_rows.count;
    return {side, blocks.begin(own), blocks.size(own), own};
  }

  void pack() {
    const Vec<T> most = splat<T>(std::numeric_limits<T>::max());
    parallel_for(all_blocks, p.threads, [&](int64_t block) {
      const auto [side, r0, count, _] = rows_of(block);
      const auto& own = p.sides[side];
      const int64_t r1 = r0 + count, n = p.size.rows(side), d = p.size.d;
      w.norms[block] = pack_rows<T>(own.x, own.ldx, r0, r1, d, {}, w.panels[side]);
      pack_rows<T>(own.guide, own.ldg, r0, r1, p.size.e, {}, w.guides[side]);
      if (p.backward) pack_columns<T>(own.x, own.ldx, r0, r1, n, d, {}, w.columns[side]);
      if (own.grad != nullptr) zero(own.grad + r0 * d, count * d);
    });
    const int64_t padded = round_up(p.size.n, Blocks::kUnit);
    for (T* x : {w.sum[0], w.sum[1], w.shift, w.weight, w.bound}) zero(x, padded);
    copy_all(w.bound, p.bound, p.size.n);
    double largest = 0;
    for (int64_t b = 0; b < all_blocks; ++b)
      if (!(w.norms[b] <= largest)) largest = w.norms[b];  // keeps NaN
    narrow = is_narrow<T>(largest * __builtin_fabs(double(c)));
    for (int64_t i = 0; i < padded; ++i) w.top[0][i] = w.top[1][i] = narrow ? T(0) : kLowestShift<T>;
    // a bound that is NaN leaves out nothing but the pairs marked by infinity
    for (int64_t i = 0; i < padded; i += L) {
      const Vec<T> bound = load(w.bound + i);
      store(w.bound + i, bound < most ? bound : most);
    }
  }

  // A pair of blocks. Its rows look at its columns, or columns at rows, or both; of a block with itself, rows alone.
  struct Pair {
    int s, t;
    int64_t i0, ni, j0, nj;
    bool same, row, column;
    KeptTiles<T> guide, products;  // kept, or null
  };

  // f(pair) for all pairs of blocks of which one looks at the other.
  template <typename F>
  void for_blocks(const F& f) const {
    for_symmetric_pairs(all_blocks, p.threads, [&](int64_t bi, int64_t bj) {
      const Rows a = rows_of(bi), b = rows_of(bj);
      const bool row = looks(a.side, b.side), column = looks(b.side, a.side);
      if (!row && !column) return;
      Pair pair{a.side, b.side, a.begin, a.size, b.begin, b.size, bi == bj, row, column, {}, {}};
      keep(pair, bi, bj);
      f(pair);
    });
  }

  void keep(Pair& pair, int64_t bi, int64_t bj) const {
    if (kept.data() == nullptr) return;
    const int64_t before = 2 * kept_before(bi, bj), tile = rows_of(bi).padded() * rows_of(bj).padded();
    if ((before + 2 * tile) * int64_t{sizeof(T)} > kept.bytes()) return;
    pair.guide = {static_cast<T*>(kept.data()) + before, pair.ni};
    pair.products = {pair.guide.data + tile, pair.ni};
  }

  // Values in the pairs of blocks (i, j), i <= j, by columns, before this one.
  int64_t kept_before(int64_t bi, int64_t bj) const {
    const auto start = [&](const Rows& r) { return r.side * round_up(p.size.n, Blocks::kUnit) + r.begin; };
    int64_t before = start(rows_of(bi)) * rows_of(bj).padded();
    for (int64_t b = 0; b < bj; ++b) {
      const Rows r = rows_of(b);
      before += (start(r) + r.padded()) * r.padded();
    }
    return before;
  }
  int64_t kept_bytes() const {
    if (all_blocks == 0 || p.size.d + p.size.e < 2 * kLeastKept) return 0;
    const int64_t last = all_blocks - 1, own = rows_of(last).padded();
    return 2 * (kept_before(last, last) + own * own) * int64_t{sizeof(T)};
  }

  // The guide's products of a pair, with infinity where there is no logit in any case.
  KeptTiles<T> by_guide(const Pair& pair, T* partial) const {
    KeptTiles<T> g = pair.guide;
    if (g.data == nullptr) g = {static_cast<T*>(scratch(2, sizeof(T) * kBlock * kBlock)), pair.ni};
    block_product<T>(p.size.e, w.guides[pair.s], w.guides[pair.t], {pair.i0, pair.ni, pair.j0, pair.nj}, partial, kLd,
                     [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V])
                         __attribute__((always_inline)) { g.put(i, j, acc); });
    const auto leave_out = [&](int64_t i, int64_t j) {
      g.at(i / R * R, j / kCols * kCols)[i % R * kCols + j % kCols] = kLeftOut;
    };
    const int64_t rows = round_up(pair.ni, R), columns = round_up(pair.nj, kCols);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = i < pair.ni ? pair.nj : 0; j < columns; ++j) leave_out(i, j);
    if (pair.t < 2)
      for (int64_t i = 0, j = pair.i0 - pair.j0; i < pair.ni; ++i, ++j)
        if (j >= 0 && j < pair.nj) leave_out(i, j);
    return g;
  }

  // use(i, j, products, guide's products) for every register tile of a pair; its products are made, and kept if `keep`.
  template <typename Use>
  inline __attribute__((always_inline)) void for_tiles(const Pair& pair, KeptTiles<T> g, T* partial, bool keep,
                                                       const Use& use) const {
    block_product<T>(p.size.d, w.panels[pair.s], w.panels[pair.t], {pair.i0, pair.ni, pair.j0, pair.nj}, partial, kLd,
                     [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
                       if (keep) pair.products.put(i, j, acc);
                       use(i, j, acc, g.at(i, j));
                     });
  }

  // ---- sums of exp(c s - top) of the rows of both blocks ---------------------------------------------------
  struct Sums {
    Vec<T>*row_sum, *row_top, *col_sum, *col_top;
    Sums(int64_t rows, int64_t columns) {
      row_sum = static_cast<Vec<T>*>(scratch(1, 4 * sizeof(Vec<T>) * kLd));
      row_top = row_sum + kLd, col_sum = row_top + kLd, col_top = col_sum + kLd;
      for (int64_t i = 0; i < round_up(rows, L); ++i) row_sum[i] = Vec<T>{}, row_top[i] = splat<T>(kLowestShift<T>);
      for (int64_t j = 0; j < columns; j += L) col_sum[j / L] = Vec<T>{}, col_top[j / L] = splat<T>(kLowestShift<T>);
    }
  };

  void sums(const Pair& pair) const {
    T* const partial = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
    const KeptTiles<T> g = by_guide(pair, partial);
    const Sums sum(pair.ni, round_up(pair.nj, kCols));
    const bool columns = pair.column && !pair.same, keep = pair.products.data != nullptr;
    if (narrow)
      for_tiles(pair, g, partial, keep,
                [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V], const T* guide) __attribute__((always_inline)) {
                  const T *row_bound = w.bound + pair.i0 + i, *col_bound = w.bound + pair.j0 + j;
                  Vec<T>* const cs = sum.col_sum + j / L;
#pragma GCC unroll 8
                  for (int r = 0; r < R; ++r) {
                    const Vec<T> bound = splat<T>(row_bound[r]);
                    Vec<T> total{};
#pragma GCC unroll 4
                    for (int v = 0; v < V; ++v) {
                      const Vec<T> e = exp2_normal<T>(acc[r][v] * (c * kScale)), by = load(guide + (r * V + v) * L);
                      total += by > bound ? Vec<T>{} : e;
                      if (columns) cs[v] += by > load(col_bound + v * L) ? Vec<T>{} : e;
                    }
                    sum.row_sum[i + r] += total;
                  }
                });
    else
      for_tiles(pair, g, partial, keep,
                [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V], const T* guide) __attribute__((always_inline)) {
                  T products[R * kCols];
                  KeptTiles<T>{products, R}.put(0, 0, acc);
                  running_sums(pair, i, j, products, guide, columns, sum);
                });
    if (pair.row)
      for (int64_t i = 0; i < pair.ni; i += L) {
        T top[L] = {}, total[L] = {};
        for (int64_t l = 0; l < L; ++l) {
          top[l] = narrow ? T(0) : hmax<T>(sum.row_top[i + l]);
          total[l] = hsum<T>(narrow ? sum.row_sum[i + l]
                                    : sum.row_sum[i + l] * exp2<T>((sum.row_top[i + l] - top[l]) * kScale));
        }
        merge(load(top), load(total), pair.s, pair.i0 + i);
      }
    if (columns)
      for (int64_t j = 0; j < pair.nj; j += L)
        merge(narrow ? Vec<T>{} : sum.col_top[j / L], sum.col_sum[j / L], pair.t, pair.j0 + j);
  }

  // Lane by lane: the largest logit so far and the sum below it. A function of its own, which leaves the loop of the
  // products all registers.
  __attribute__((noinline)) void running_sums(const Pair& pair, int64_t i, int64_t j, const T* products, const T* guide,
                                              bool columns, const Sums& sum) const {
    const T *row_bound = w.bound + pair.i0 + i, *col_bound = w.bound + pair.j0 + j;
    const Vec<T> none = splat<T>(kNegInf<T>);
    const auto logit = [&](int r, int v, Vec<T> bound) __attribute__((always_inline)) {
      return load(guide + (r * V + v) * L) > bound ? none : load(products + (r * V + v) * L) * c;
    };
    for (int r = 0; r < R; ++r) {
      const Vec<T> bound = splat<T>(row_bound[r]);
      Vec<T> top = sum.row_top[i + r];
      for (int v = 0; v < V; ++v) top = vmax<T>(logit(r, v, bound), top);  // a NaN logit makes the sum NaN
      Vec<T> total = sum.row_sum[i + r] * exp2<T>((sum.row_top[i + r] - top) * kScale);
      for (int v = 0; v < V; ++v) total += exp2<T>((logit(r, v, bound) - top) * kScale);
      sum.row_sum[i + r] = total, sum.row_top[i + r] = top;
    }
    if (!columns) return;
    for (int v = 0; v < V; ++v) {
      const Vec<T> bound = load(col_bound + v * L);
      Vec<T>&total = sum.col_sum[j / L + v], &old = sum.col_top[j / L + v], top = old;
      for (int r = 0; r < R; ++r) top = vmax<T>(logit(r, v, bound), top);
      total *= exp2<T>((old - top) * kScale), old = top;
      for (int r = 0; r < R; ++r) total += exp2<T>((logit(r, v, bound) - top) * kScale);
    }
  }

  // Shift and sum of L rows from `first` on take in another pair of them.
  void merge(Vec<T> top, Vec<T> sum, int side, int64_t first) const {
    T *const shift = w.top[side] + first, *const total = w.sum[side] + first;
    if (narrow) return store(total, load(total) + sum);
    Softmax<PairwisePanels<T>>::merge(top, sum, shift, total);
  }

  // ---- losses, and weights of the rows: W_ij = c g_i exp(s_ij - lse_i) ---------------------------------------
  void finish_row(int64_t i) const {
    const double positive = double(p.positive[i]);
    const bool again = (p.directions & kKeyToQuery) != 0;
    double high = again ? positive : -HUGE_VAL, total = 0;
    for (int s = 0; s < 2; ++s)
      if (w.sum[s][i] != 0 && !(double(w.top[s][i]) <= high)) high = double(w.top[s][i]);  // keeps NaN
    for (int s = 0; s < 2; ++s)
      if (w.sum[s][i] != 0) total += double(w.sum[s][i]) * std::exp(double(w.top[s][i]) - high);
    if (again) total += std::exp(positive - high);
    const bool empty = total == 0;  // no pair: no loss, no gradient
    const double lse = high + std::log(total), margin = lse - positive;
    const double slope = empty ? 0 : sigmoid(margin) * double(p.weight[i]);
    p.rows[i] = empty ? T(0) : static_cast<T>(softplus(margin));
    p.grad_positive[i] = static_cast<T>(slope * (again ? std::expm1(positive - lse) : -1));
    w.shift[i] = empty || narrow ? T(0) : static_cast<T>(lse);
    w.weight[i] = empty ? T(0) : static_cast<T>(double(c) * (narrow ? slope * std::exp(-lse) : slope));
  }

  // ---- W of a pair of blocks, and W X_t, W^T X_s -------------------------------------------------------------
  void gradient(const Pair& pair) const {
    T *const own = p.sides[pair.s].grad, *const other = p.sides[pair.t].grad;
    if (own == nullptr && other == nullptr) return;
    T* const tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
    const KeptTiles<T> g = pair.guide.data != nullptr ? pair.guide : by_guide(pair, tile);
    const auto use = [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V], const T* guide)
                         __attribute__((always_inline)) {
                           if (narrow)
                             weights<true>(pair, i, j, acc, guide, tile);
                           else
                             weights<false>(pair, i, j, acc, guide, tile);
                         };
    if (pair.products.data == nullptr)
      for_tiles(pair, g, tile, false, use);
    else
      PairwisePanels<T>::for_kept_tiles(pair.ni, pair.nj, pair.products,
                                        [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V])
                                            __attribute__((always_inline)) { use(i, j, acc, g.at(i, j)); });
    const int64_t d = p.size.d;
    if (own != nullptr)
      block_accumulate<false, T>(tile, kLd, pair.ni, pair.nj, {w.columns[pair.t], p.size.rows(pair.t), pair.j0},
                                 own + pair.i0 * d, d, d);
    if (other != nullptr && !pair.same)
      block_accumulate<true, T>(tile, kLd, pair.nj, pair.ni, {w.columns[pair.s], p.size.rows(pair.s), pair.i0},
                                other + pair.j0 * d, d, d);
  }

  template <bool kNarrow>
  inline __attribute__((always_inline)) void weights(const Pair& pair, int64_t i, int64_t j, const Vec<T> (&acc)[R][V],
                                                     const T* guide, T* tile) const {
    const int64_t row = pair.i0 + i, col = pair.j0 + j;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec<T> by = load(guide + (r * V + v) * L);
        Vec<T> of_row{}, of_column{};
        if (pair.row) {
          of_row = splat<T>(w.weight[row + r]);
          if constexpr (!kNarrow) of_row *= exp2<T>((acc[r][v] * c - w.shift[row + r]) * kScale);
          of_row = by > splat<T>(w.bound[row + r]) ? Vec<T>{} : of_row;
        }
        if (pair.column) {
          of_column = load(w.weight + col + v * L);
          if constexpr (!kNarrow) of_column *= exp2<T>((acc[r][v] * c - load(w.shift + col + v * L)) * kScale);
          of_column = by > load(w.bound + col + v * L) ? Vec<T>{} : of_column;
        }
        Vec<T> sum = of_row + of_column;
        if constexpr (kNarrow) sum *= exp2_normal<T>(acc[r][v] * (c * kScale));
        store(tile + (i + r) * kLd + j + v * L, sum);
      }
  }

  void run() const {
    for_blocks([&](const Pair& pair) { sums(pair); });
    for_rows(p.size.n, p.threads, [&](int64_t i) { finish_row(i); });
    if (p.backward) for_blocks([&](const Pair& pair) { gradient(pair); });
  }
};

}  // namespace

template <typename T>
int64_t guided_workspace(const GuidedSizes& size, bool backward) {
  return GuidedBuffers<T>(nullptr, size, backward).size;
}
template <typename T>
void guided(const GuidedArgs<T>& args) {
  Guided<T>(args).run();
}

template int64_t guided_workspace<float>(const GuidedSizes&, bool);
template int64_t guided_workspace<double>(const GuidedSizes&, bool);
template void guided<float>(const GuidedArgs<float>&);
template void guided<double>(const GuidedArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// What the softmax and the sigmoid part of `pairwise` share: packed operands, block schedule, and the logits of one
// block in registers.
#pragma once
#include <type_traits>

#include "pairwise/cpu/pair_schedule.h"
#include "pairwise/cpu/pairwise.h"
#include "simd/kept.h"
#include "simd/memory.h"
#include "simd/narrow.h"
#include "simd/operands.h"
#include "simd/scratch.h"
#include "simd/tile.h"

namespace sslspec::cpu {
namespace {

// The pairs of one block that must be left out: the padding of ragged edges, i == j, equal ids, a CSR pattern, products
// above a limit. Register tiles come in the order of block_product: columns ascending, all rows at each.
template <typename T>
struct BlockMask {
  static constexpr int64_t R = Tile<T>::kRows, kCols = Tile<T>::kCols, kBlock = Tile<T>::kBlock;

  const PairwiseArgs<T>& p;
  int64_t i0, j0;
  int64_t whole;  // rows whose tiles may have nothing to leave out: all or, where products have a limit, none
  // Ids of the rows and columns of a tile as ranges: tiles without equal ids (most of them when ids are sorted, or are
  // the views of a batch) are seen at a glance.
  struct Range {
    int32_t low, high;
  };
  Range row[kBlock / R], col[kBlock / kCols];
  int64_t at[kBlock], next[kBlock];  // position in the pattern of each row, and the column there

  BlockMask(const PairwiseArgs<T>& args, int64_t i0, int64_t ni, int64_t j0, int64_t nj)
      : p(args), i0(i0), j0(j0), whole(p.limit == nullptr ? p.n : 0) {
    if (p.ids_a != nullptr) {
      ranges(p.ids_a + i0, ni, R, row);
      ranges(p.ids_b + j0, nj, kCols, col);
    }
    if (p.skip_indptr == nullptr) return;
    for (int64_t i = 0; i < round_up(ni, R); ++i) {
      int64_t low = 0, high = 0;
      if (i < ni) low = p.skip_indptr[i0 + i], high = p.skip_indptr[i0 + i + 1];
      while (low < high) {  // first entry with column >= j0
        const int64_t mid = (low + high) / 2;
        if (p.skip_indices[mid] < j0)
          low = mid + 1;
        else
          high = mid;
      }
      at[i] = low;
      find_next(i, ni);
    }
  }
  static void ranges(const int32_t* ids, int64_t count, int64_t step, Range* out) {
    for (int64_t i = 0; i < count; i += step, ++out) {
      *out = {ids[i], ids[i]};
      for (int64_t k = i + 1; k < min64(count, i + step); ++k) {
        if (ids[k] < out->low) out->low = ids[k];
        if (ids[k] > out->high) out->high = ids[k];
      }
    }
  }
  void find_next(int64_t i, int64_t rows) {
    next[i] = i < rows && at[i] < p.skip_indptr[i0 + i + 1] ? p.skip_indices[at[i]] : INT64_MAX;
  }

  inline __attribute__((always_inline)) bool meets(int64_t i, int64_t j) const {
    const int64_t first = i0 + i, end = j0 + j + kCols;
    if (first + R > whole || end > p.m || (p.skip_self && first < end && j0 + j < first + R)) return true;
    if (p.ids_a != nullptr && row[i / R].low <= col[j / kCols].high && col[j / kCols].low <= row[i / R].high)
      return true;
    bool any = false;
    if (p.skip_indptr != nullptr)
      for (int64_t r = 0; r < R; ++r) any |= next[i + r] < end;
    return any;
  }

  // -inf into the logits s of a stored register tile whose products are above the limit.
  __attribute__((noinline)) void apply_limit(int64_t i, const T* products, T* s) const {
    for (int64_t r = 0; r < R; ++r) {
      const Vec<T> most = splat<T>(p.limit[p.limit_step * min64(i0 + i + r, p.n - 1)]);
      for (int64_t k = r * kCols; k < (r + 1) * kCols; k += kLanes<T>)
        store(s + k, load(products + k) > most ? splat<T>(kNegInf<T>) : load(s + k));
    }
  }

  // -inf into the left-out pairs of a stored register tile [R][kCols].
  __attribute__((noinline)) void apply(int64_t i, int64_t j, T* s) {
    const int64_t first = j0 + j, cols = min64(kCols, p.m - first);
    for (int64_t r = 0; r < R; ++r, s += kCols) {
      const int64_t global = i0 + i + r, inside = global < p.n ? cols : 0;
      if (p.ids_a != nullptr && inside > 0) {
        const int32_t id = p.ids_a[global];
        for (int64_t k = 0; k < inside; ++k) s[k] = p.ids_b[first + k] == id ? kNegInf<T> : s[k];
      }
      for (int64_t k = inside; k < kCols; ++k) s[k] = kNegInf<T>;
      const int64_t self = global - first;
      if (p.skip_self && self >= 0 && self < kCols) s[self] = kNegInf<T>;
      if (p.skip_indptr == nullptr) continue;
      for (; next[i + r] < first + kCols; find_next(i + r, p.n - i0)) s[next[i + r] - first] = kNegInf<T>, ++at[i + r];
    }
  }
};

// The workspace, laid out; base == nullptr only counts.
template <typename T>
struct PairwiseBuffers {
  T *a_panels, *b_panels, *norms;  // the operands by rows, the largest squared norm of each block
  T *row_shift, *col_shift, *row_weight, *col_weight;
  T *a_columns, *b_columns;  // the operands by columns, for the backward pass
  int64_t size = 0;

  PairwiseBuffers(T* base, int64_t n, int64_t m, int64_t d, bool symmetric, bool backward) {
    auto take = [&](int64_t count) {
      T* p = base == nullptr ? nullptr : base + size;
      size += round_up(count, 64);
      return p;
    };
    const int64_t n_pad = round_up(n, 192), m_pad = round_up(m, 192), d_pad = round_up(d, Wide<T>::kCols);
    const int64_t d_row = round_up(d, kMostPadding);
    a_panels = take(n_pad * d_row);
    b_panels = symmetric ? a_panels : take(m_pad * d_row);
    norms = take(n_pad / 48 + m_pad / 48);
    row_shift = take(n_pad);
    col_shift = symmetric ? row_shift : take(m_pad);
    row_weight = take(n_pad);
    col_weight = symmetric ? row_weight : take(m_pad);
    a_columns = b_columns = nullptr;
    if (backward) {
      b_columns = take(d_pad * (m + kMostPadding));
      a_columns = symmetric ? b_columns : take(d_pad * (n + kMostPadding));
    }
  }
};

// The products of a block of rows and columns as `block_product` makes them: register tile after register tile, all rows
// of the block at each of its columns. Null data: there are none.
template <typename T>
struct KeptTiles {
  T* data = nullptr;
  int64_t rows = 0;  // of the block

  T* at(int64_t i, int64_t j) const {
    constexpr int64_t R = Tile<T>::kRows, kCols = Tile<T>::kCols;
    return data + (j / kCols * ((rows + R - 1) / R) + i / R) * (R * kCols);
  }
  inline __attribute__((always_inline)) void put(int64_t i, int64_t j,
                                                 const Vec<T> (&acc)[Tile<T>::kRows][Tile<T>::kVecs]) const {
    T* const to = at(i, j);
#pragma GCC unroll 8
    for (int r = 0; r < Tile<T>::kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Tile<T>::kVecs; ++v) store(to + (r * Tile<T>::kVecs + v) * kLanes<T>, acc[r][v]);
  }
  KeptTiles from(int64_t i, int64_t j) const { return data == nullptr ? *this : KeptTiles{at(i, j), rows}; }
};

// What the products of row i of a block are multiplied by: one factor for all rows, or one for each.
template <typename T>
struct RowFactors {
  const T* of_row;
};
template <typename T>
inline T factor_of(T c, int64_t) {
  return c;
}
template <typename T>
inline T factor_of(RowFactors<T> c, int64_t i) {
  return c.of_row[i];
}

// What a call makes: statistics, their gradient, or one after the other from the same panels.
enum class Pass { forward, backward, both };

// The blocks of one call and the logits of one of them, whatever the format of the operands.
template <typename Operands>
struct PairwiseBlocks : Operands {
  using Op = typename Operands::Op;
  using T = typename Op::T;
  static constexpr int L = kLanes<T>, R = Tile<T>::kRows, V = Tile<T>::kVecs, kLd = Tile<T>::kLd;
  static constexpr T kScale = static_cast<T>(kLog2e);
  static constexpr int64_t kAhead = 1024;  // values that are asked for before their use

  const PairwiseArgs<T>& p;
  PairwiseBuffers<T> w;
  Blocks rows, cols;
  int64_t depth;      // steps of a product of two rows
  const T* right;     // the panels of b as the right operand
  T logit_scale = 1;  // what products of panels are multiplied by
  double limit = 0;   // bound of |logit|: max |scale a| max |b|
  bool gradient;      // the call makes it
  Kept kept;          // products of the forward pass, or none

  PairwiseBlocks(const PairwiseArgs<T>& args, Pass pass)
      : p(args), w(args.workspace, args.n, args.m, args.d, args.symmetric, pass != Pass::forward),
        rows(args.n, args.symmetric), cols(args.m, args.symmetric), depth(Operands::steps(args.d)),
        right(Operands::right(w.b_panels, round_up(args.m, 192), args.d)), gradient(pass != Pass::forward),
        kept(kept_in(pass)) {
    if (pass == Pass::forward && p.kept != nullptr) *p.kept = kept.number();
  }

  // pack_a(r0, r1) and pack_b pack rows [r0, r1) of an operand and return the largest squared norm among them; this
  // also prepares those rows and starts their gradients.
  template <typename PackA, typename PackB>
  void pack(const PackA& pack_a, const PackB& pack_b) {
    const int64_t a_blocks = rows.count, b_blocks = p.symmetric ? 0 : cols.count;
    parallel_for(a_blocks + b_blocks, p.threads, [&](int64_t t) {
      const int64_t s = t - a_blocks;
      const int64_t r0 = s < 0 ? rows.begin(t) : cols.begin(s), r1 = s < 0 ? rows.begin(t + 1) : cols.begin(s + 1);
      const int64_t first = s < 0 ? 0 : p.n;
      if (p.prepare.present()) p.prepare(first + r0, first + r1);
      T* grad = s < 0 ? p.grad_a : p.grad_b;
      if (gradient && grad != nullptr) zero(grad + r0 * p.d, (r1 - r0) * p.d);
      w.norms[t] = s < 0 ? pack_a(r0, r1) : pack_b(r0, r1);
    });
    const double a2 = largest(w.norms, a_blocks);
    const double b2 = p.symmetric ? a2 : largest(w.norms + a_blocks, b_blocks);
    limit = __builtin_sqrt(a2) * __builtin_sqrt(b2) * __builtin_fabs(double(logit_scale));
  }

  static double largest(const T* x, int64_t count) {
    double m = 0;
    for (int64_t i = 0; i < count; ++i)
      if (!(x[i] <= m)) m = x[i];
    return m;
  }

  // Products are kept in the order in which `block_product` makes them, pair after pair of blocks: (i, j) with i <= j by
  // columns in the symmetric case, else by rows. Those that do not fit are computed twice: the shapes alone say which.
  static int64_t padded(const Blocks& blocks, int64_t b) { return round_up(blocks.size(b), Blocks::kUnit); }
  int64_t kept_before(int64_t bi, int64_t bj) const {
    if (!p.symmetric) return rows.begin(bi) * round_up(p.m, Blocks::kUnit) + padded(rows, bi) * cols.begin(bj);
    int64_t before = rows.begin(bi) * padded(cols, bj);
    for (int64_t b = 0; b < bj; ++b) before += (cols.begin(b) + padded(cols, b)) * padded(cols, b);
    return before;
  }
  int64_t kept_of(int64_t bi, int64_t bj) const { return padded(rows, bi) * padded(cols, bj); }
  int64_t all_products() const {
    const int64_t bi = rows.count - 1, bj = cols.count - 1;
    return bi < 0 || bj < 0 ? 0 : kept_before(bi, bj) + kept_of(bi, bj);
  }
  int64_t kept_bytes() const { return depth < Operands::kLeastKept ? 0 : all_products() * int64_t{sizeof(T)}; }
  Kept kept_in(Pass pass) const {
    if (pass == Pass::backward) return Kept::read(p.kept == nullptr ? 0 : *p.kept);
    return Kept(pass == Pass::both || p.kept != nullptr ? kept_bytes() : 0);
  }
  KeptTiles<T> kept_products(int64_t bi, int64_t bj) const {
    if (kept.data() == nullptr) return {};
    const int64_t before = kept_before(bi, bj), end = before + kept_of(bi, bj);
    if (end * int64_t{sizeof(T)} > kept.bytes()) return {};
    return {static_cast<T*>(kept.data()) + before, rows.size(bi)};
  }

  template <typename F>
  void for_pairs(const F& f) const {
    if (p.symmetric)
      for_symmetric_pairs(rows.count, p.threads, f);
    else
      for_all_pairs(rows.count, cols.count, p.threads, f);
  }

  // Rows [i0, i0 + ni) and columns [j0, j0 + nj), their kept products, and to which of both they are added.
  struct Part {
    int64_t i0, ni, j0, nj;
    KeptTiles<T> products;
    bool to_rows, to_columns;
  };

  Part whole(int64_t bi, int64_t bj, KeptTiles<T> products, bool columns) const {
    return {
        rows.begin(bi), rows.size(bi), cols.begin(bj), cols.size(bj), products, true, p.symmetric ? bi != bj : columns};
  }

  // f(part) for all pairs, divided as PairTasks says, in the same order for each row and column; `columns`: they are
  // added to the columns as well.
  template <typename F>
  void for_parts(bool columns, const F& f) const {
    if (!PairTasks(rows, cols, p.symmetric, columns, p.threads).units) {
      for_pairs([&](int64_t bi, int64_t bj) { f(whole(bi, bj, kept_products(bi, bj), columns)); });
      return;
    }
    parallel_for(rows.units + (p.symmetric || !columns ? 0 : cols.units), p.threads, [&](int64_t t) {
      const FlushSubnormals flush;
      const bool column = t >= rows.units;
      const Blocks& side = column ? cols : rows;
      const int64_t unit = column ? t - rows.units : t, block = side.of_unit(unit), first = unit * Blocks::kUnit;
      const int64_t size = min64(Blocks::kUnit, side.n - first), within = first - side.begin(block);
      const auto as_rows = [&](int64_t bj) {
        f(Part{first, size, cols.begin(bj), cols.size(bj), kept_products(block, bj).from(within, 0), true, false});
      };
      const auto as_columns = [&](int64_t bi) {
        f(Part{rows.begin(bi), rows.size(bi), first, size, kept_products(bi, block).from(0, within), false, true});
      };
      if (p.symmetric)
        for_partners(rows.count, block, [&](int64_t other) { block <= other ? as_rows(other) : as_columns(other); });
      else if (column)
        for_partners(rows.count, cols.count, block, true, as_columns);
      else
        for_partners(rows.count, cols.count, block, false, as_rows);
    });
  }

  // x(r, v, shift) = c s - shift for the logits s of row i + r and columns j + v L ..., -inf for pairs that are left
  // out: for every register tile of the block calls use(i, j, x, plain), `plain` (a constant) saying that none is left
  // out. c: a number or RowFactors from row i0 on. Writes the products to `keep` if it is not null.
  template <typename Factor, typename Use>
  inline __attribute__((always_inline)) void for_tiles(int64_t i0, int64_t ni, int64_t j0, int64_t nj, T* tile,
                                                       Factor c, const Use& use, KeptTiles<T> keep = {}) const {
    BlockMask<T> left_out(p, i0, ni, j0, nj);
    Operands::product(depth, w.a_panels, right, {i0, ni, j0, nj}, tile,
                      [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
                        if (keep.data != nullptr) keep.put(i, j, acc);
                        use_tile(left_out, i, j, acc, c, use);
                      });
  }

  // use(i, j, tile) for the register tiles of a block that were kept.
  template <typename Use>
  static inline __attribute__((always_inline)) void for_kept_tiles(int64_t ni, int64_t nj, KeptTiles<T> kept,
                                                                   const Use& use) {
    for (int64_t j = 0; j < nj; j += V * L)
      for (int64_t i = 0; i < ni; i += R) {
        const T* const products = kept.at(i, j);
        Vec<T> acc[R][V];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            __builtin_prefetch(products + (r * V + v) * L + kAhead, 0, 0);
            acc[r][v] = load(products + (r * V + v) * L);
          }
        use(i, j, acc);
      }
  }

  template <typename Factor, typename Use>
  static inline __attribute__((always_inline)) void use_tile(BlockMask<T>& left_out, int64_t i, int64_t j,
                                                             const Vec<T> (&acc)[R][V], Factor c, const Use& use) {
    if (__builtin_expect(left_out.meets(i, j), 0)) {
      T s[R * V * L];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(s + (r * V + v) * L, acc[r][v] * factor_of(c, i + r));
      if (left_out.p.limit != nullptr) {
        T products[R * V * L];
        KeptTiles<T>{products, R}.put(0, 0, acc);
        left_out.apply_limit(i, products, s);
      }
      left_out.apply(i, j, s);
      use(
          i, j,
          [&](int r, int v, Vec<T> shift) __attribute__((always_inline)) { return load(s + (r * V + v) * L) - shift; },
          std::false_type{});
    } else {
      use(
          i, j,
          [&](int r, int v, Vec<T> shift)
              __attribute__((always_inline)) { return acc[r][v] * factor_of(c, i + r) - shift; },
          std::true_type{});
    }
  }

  // W B onto `own` and W^T A onto `other`, if they are not null.
  void accumulate(T* tile, int64_t i0, int64_t ni, int64_t j0, int64_t nj, T* own, T* other) const {
    if (own != nullptr) Operands::times(tile, ni, nj, {w.b_columns, p.m, j0}, own + i0 * p.d, p.d, p.d);
    if (other != nullptr) Operands::transposed_times(tile, ni, nj, {w.a_columns, p.n, i0}, other + j0 * p.d, p.d, p.d);
  }
};

// Operands in T. The scale is in the panels of a. It multiplies the logits in the symmetric case, where left and right
// operand are one buffer, and where products are compared with a limit.
template <typename T>
struct PairwisePanels : PairwiseBlocks<ExactOperands<T>> {
  using Base = PairwiseBlocks<ExactOperands<T>>;
  using Base::p, Base::w;
  static constexpr bool kScaled = true;  // the panels hold a scale of each row

  PairwisePanels(const PairwiseArgs<T>& args, Pass pass) : Base(args, pass) {
    const bool apart = p.symmetric || p.limit != nullptr;
    if (apart) this->logit_scale = p.scale[0];
    const T *scale = p.symmetric ? nullptr : p.scale, *in_panels = apart ? nullptr : p.scale;
    this->pack(
        [&](int64_t r0, int64_t r1) {
          if (this->gradient && (p.symmetric || p.grad_b != nullptr))
            pack_columns<T>(p.a, p.lda, r0, r1, p.n, p.d, {scale, p.scale_step}, w.a_columns);
          return pack_rows<T>(p.a, p.lda, r0, r1, p.d, {in_panels, p.scale_step}, w.a_panels);
        },
        [&](int64_t r0, int64_t r1) {
          if (this->gradient) pack_columns<T>(p.b, p.ldb, r0, r1, p.m, p.d, {}, w.b_columns);
          return pack_rows<T>(p.b, p.ldb, r0, r1, p.d, {}, w.b_panels);
        });
  }
};

}  // namespace
}  // namespace sslspec::cpu

// Log-sum-exp statistics of S = diag(scale) A B^T and their gradient, without storing S.
//
// A task is a pair of row blocks. Its tile of S is made from packed panels (tile.h), turned into exponentials while it
// is in registers (or in the L2 cache, for a wide range of logits or a sparse pattern of pairs to leave out), and used
// for the statistics or gradients of both blocks (pairs.h): the symmetric case does half of the products.
//
// Shift. With r = max |scale a_i| max |b_j| all logits lie in [-r, r]. While 2 r log2(e) stays inside the exponent
// range the constant shift r is safe and one exponential serves row and column; otherwise a running maximum per row
// and column is kept (forward) and the statistics themselves are the shift (backward, exponents <= 0).
//
// Precision policy: everything in T; contributions are added in an order that depends on the shapes alone.
#include "cpu/pairwise_panels.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct Softmax : PairwisePanels<T> {
  using Base = PairwisePanels<T>;
  using Base::p, Base::w, Base::rows, Base::cols, Base::limit, Base::for_pairs, Base::logit_scale, Base::logits,
      Base::masked, Base::leave_out, Base::id_ranges, Base::zero, Base::L, Base::R, Base::V, Base::kLd, Base::kScale;
  // 2 r log2(e) below this keeps every shifted exponential a normal number
  static constexpr double kNarrow = sizeof(T) == 4 ? 120.0 : 1000.0;

  using typename Base::IdRanges;
  bool narrow, registers;
  T range;

  Softmax(const PairwiseArgs<T>& args, bool backward) : Base(args, backward) {
    narrow = 2 * limit * kLog2e < kNarrow;  // false for NaN
    registers = narrow && p.skip_indptr == nullptr;
    range = static_cast<T>(limit * 1.0001);
  }

  // ---- forward: sums of exp(s - shift), kept in row_weight / col_weight ------------------------------------
  void forward() {
    for (int64_t i = 0; i < p.n; ++i) w.row_shift[i] = narrow ? range : kNegInf<T>;
    zero(w.row_weight, p.n);
    if (!p.symmetric) {
      for (int64_t j = 0; j < p.m; ++j) w.col_shift[j] = narrow ? range : kNegInf<T>;
      zero(w.col_weight, p.m);
    }
    for_pairs([&](int64_t bi, int64_t bj) {
      const int64_t i0 = rows.begin(bi), ni = rows.size(bi), j0 = cols.begin(bj), nj = cols.size(bj);
      const bool use_columns = p.symmetric ? bi != bj : p.columns;
      if (registers)
        sums_in_registers(i0, ni, j0, nj, use_columns);
      else
        sums_of_tile(i0, ni, j0, nj, use_columns);
    });
    finish(p.n, w.row_shift, w.row_weight, p.row_lse);
    if (p.columns) finish(p.m, w.col_shift, w.col_weight, p.col_lse);
  }

  static void finish(int64_t n, const T* shift, const T* sum, T* lse) {
    for (int64_t i = 0; i < n; ++i) lse[i] = static_cast<T>(double(shift[i]) + __builtin_log(double(sum[i])));
  }

  // For every register tile of the block: use(i, j, e) with e(r, v) the exponentials of row i + r at columns j + v L ...,
  // 0 for pairs that are left out.
  template <typename Use>
  inline __attribute__((always_inline)) void exponentials(int64_t i0, int64_t ni, int64_t j0, int64_t nj, T* tile,
                                                          const Use& use) const {
    const Vec<T> c = splat<T>(logit_scale() * kScale), shift = splat<T>(range * kScale);
    IdRanges ids;
    id_ranges(i0, ni, j0, nj, ids);
    block_product<T>(p.d, w.a_panels, i0, ni, w.b_panels, j0, nj, tile, kLd,
                     [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
                       if (__builtin_expect(masked(i0, j0, i, j, ids), 0)) {
                         T s[R * V * L];
                         for (int r = 0; r < R; ++r)
                           for (int v = 0; v < V; ++v) store(s + (r * V + v) * L, acc[r][v] * c - shift);
                         leave_out(i0 + i, j0 + j, s);
                         use(i, j, [&](int r, int v) __attribute__((always_inline)) {
                           return exp2<T>(load(s + (r * V + v) * L));
                         });
                       } else {
                         use(i, j, [&](int r, int v) __attribute__((always_inline)) {
                           return exp2_normal<T>(acc[r][v] * c - shift);
                         });
                       }
                     });
  }

  void sums_in_registers(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool use_columns) const {
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
    Vec<T>* row_sum = static_cast<Vec<T>*>(scratch(1, 2 * sizeof(Vec<T>) * kLd));
    Vec<T>* col_sum = row_sum + kLd;
    for (int64_t i = 0; i < ni; ++i) row_sum[i] = Vec<T>{};
    for (int64_t j = 0; j < nj; j += L) col_sum[j / L] = Vec<T>{};
    exponentials(i0, ni, j0, nj, tile, [&](int64_t i, int64_t j, const auto& e) __attribute__((always_inline)) {
      Vec<T>* cs = col_sum + j / L;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        Vec<T> sum{};
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Vec<T> x = e(r, v);
          sum += x;
          cs[v] += x;
        }
        row_sum[i + r] += sum;
      }
    });
    for (int64_t i = 0; i < ni; ++i) w.row_weight[i0 + i] += hsum<T>(row_sum[i]);
    if (use_columns)
      for (int64_t j = 0; j < nj; j += L) {
        T* out = w.col_weight + j0 + j;
        store(out, load(out) + col_sum[j / L]);
      }
  }

  void sums_of_tile(int64_t i0, int64_t ni, int64_t j0, int64_t nj, bool use_columns) const {
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
    logits(i0, ni, j0, nj, tile);
    for (int64_t i = 0; i < ni; ++i) {
      const T* s = tile + i * kLd;
      T &shift = w.row_shift[i0 + i], &sum = w.row_weight[i0 + i];
      if (!narrow) {
        Vec<T> top = splat<T>(shift);
        for (int64_t j = 0; j < nj; j += L) top = vmax<T>(load(s + j), top);
        raise_shift(hmax<T>(top), shift, sum);
      }
      const T base = shift == kNegInf<T> ? T(0) : shift;  // nothing seen yet: every logit is -inf (adds 0) or NaN
      Vec<T> add{};
      for (int64_t j = 0; j < nj; j += L) add += exp2<T>((load(s + j) - base) * kScale);
      sum += hsum<T>(add);
    }
    if (!use_columns) return;
    for (int64_t j = 0; j < nj; j += L) {
      T shift[L], sum[L] = {};
      for (int l = 0; l < L; ++l) shift[l] = j + l < nj ? w.col_shift[j0 + j + l] : T(0);
      if (!narrow) {
        Vec<T> top = load(shift);
        for (int64_t i = 0; i < ni; ++i) top = vmax<T>(load(tile + i * kLd + j), top);
        for (int l = 0; l < L && j + l < nj; ++l)
          raise_shift(top[l], w.col_shift[j0 + j + l], w.col_weight[j0 + j + l]);
        for (int l = 0; l < L && j + l < nj; ++l) {
          shift[l] = w.col_shift[j0 + j + l];
          if (shift[l] == kNegInf<T>) shift[l] = 0;
        }
      }
      Vec<T> add{};
      const Vec<T> base = load(shift);
      for (int64_t i = 0; i < ni; ++i) add += exp2<T>((load(tile + i * kLd + j) - base) * kScale);
      store(sum, add);
      for (int l = 0; l < L && j + l < nj; ++l) w.col_weight[j0 + j + l] += sum[l];
    }
  }

  static void raise_shift(T top, T& shift, T& sum) {
    if (top == shift) return;  // a NaN logit fails this and makes the sum NaN
    sum *= shift == kNegInf<T> ? T(0) : static_cast<T>(__builtin_exp(double(shift) - double(top)));
    if (top != top) sum = top;
    shift = top;
  }

  // ---- backward: W_ij = grad_row_i softmax_ij + grad_col_j softmax_ji, then W B and W^T A ------------------
  void backward() {
    weights(p.n, p.row_lse, p.grad_row, w.row_shift, w.row_weight);
    if (!p.symmetric) {
      if (p.columns) {
        weights(p.m, p.col_lse, p.grad_col, w.col_shift, w.col_weight);
      } else {
        zero(w.col_shift, p.m);
        zero(w.col_weight, p.m);
      }
    }
    for_pairs([&](int64_t bi, int64_t bj) {
      const int64_t i0 = rows.begin(bi), ni = rows.size(bi), j0 = cols.begin(bj), nj = cols.size(bj);
      T* tile = static_cast<T*>(scratch(0, sizeof(T) * kLd * kLd));
      if (registers)
        weights_in_registers(i0, ni, j0, nj, tile);
      else
        weights_of_tile(i0, ni, j0, nj, tile);
      block_accumulate<false>(tile, int64_t(kLd), ni, nj, w.b_columns, p.m, j0, p.grad_a + i0 * p.d, p.d, p.d);
      if (!p.symmetric)
        block_accumulate<true>(tile, int64_t(kLd), nj, ni, w.a_columns, p.n, i0, p.grad_b + j0 * p.d, p.d, p.d);
      else if (bi != bj)
        block_accumulate<true>(tile, int64_t(kLd), nj, ni, w.a_columns, p.n, i0, p.grad_a + j0 * p.d, p.d, p.d);
    });
  }

  void weights(int64_t n, const T* lse, const T* grad, T* shift, T* weight) const {
    for (int64_t i = 0; i < n; ++i) {
      const bool empty = lse[i] == kNegInf<T>;  // no pair in this row: no gradient
      shift[i] = narrow ? range : empty ? T(0) : lse[i];
      weight[i] = empty || grad[i] == 0 ? T(0)
                  : narrow ? static_cast<T>(double(grad[i]) * __builtin_exp(double(range) - double(lse[i])))
                           : grad[i];
    }
  }

  void weights_in_registers(int64_t i0, int64_t ni, int64_t j0, int64_t nj, T* tile) const {
    const T *row_weight = w.row_weight + i0, *col_weight = w.col_weight + j0;
    exponentials(i0, ni, j0, nj, tile, [&](int64_t i, int64_t j, const auto& e) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Vec<T> g = load(col_weight + j + v * L) + row_weight[i + r];
          store(tile + (i + r) * kLd + j + v * L, e(r, v) * g);
        }
    });
  }

  void weights_of_tile(int64_t i0, int64_t ni, int64_t j0, int64_t nj, T* tile) const {
    logits(i0, ni, j0, nj, tile);
    const int64_t padded = round_up(nj, L);
    T* column = static_cast<T*>(scratch(1, 2 * sizeof(Vec<T>) * kLd));  // shift and weight of the columns, padded
    for (int64_t j = 0; j < padded; ++j) {
      column[j] = j < nj ? w.col_shift[j0 + j] : T(0);
      column[kLd + j] = j < nj ? w.col_weight[j0 + j] : T(0);
    }
    const bool two = !narrow && (p.symmetric || p.columns);
    for (int64_t i = 0; i < ni; ++i) {
      T* s = tile + i * kLd;
      const T shift = w.row_shift[i0 + i], weight = w.row_weight[i0 + i];
      for (int64_t j = 0; j < padded; j += L) {
        const Vec<T> x = load(s + j), g = load(column + kLd + j);
        const Vec<T> e = exp2<T>((x - shift) * kScale);
        if (two)
          store(s + j, e * weight + exp2<T>((x - load(column + j)) * kScale) * g);
        else
          store(s + j, e * (g + weight));
      }
    }
  }
};

}  // namespace

template <typename T>
int64_t pairwise_workspace(int64_t n, int64_t m, int64_t d, bool symmetric, bool backward) {
  return PairwiseBuffers<T>(nullptr, n, m, d, symmetric, backward).size;
}
template <typename T>
void pairwise_forward(const PairwiseArgs<T>& args) { Softmax<T>(args, false).forward(); }
template <typename T>
void pairwise_backward(const PairwiseArgs<T>& args) { Softmax<T>(args, true).backward(); }

template int64_t pairwise_workspace<float>(int64_t, int64_t, int64_t, bool, bool);
template int64_t pairwise_workspace<double>(int64_t, int64_t, int64_t, bool, bool);
template void pairwise_forward<float>(const PairwiseArgs<float>&);
template void pairwise_forward<double>(const PairwiseArgs<double>&);
template void pairwise_backward<float>(const PairwiseArgs<float>&);
template void pairwise_backward<double>(const PairwiseArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

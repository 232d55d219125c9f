// Rows of a softmax with one positive and the gradient of their weighted sum, in one visit of every logit: the weights
// of a row need only its own sum, so a panel of rows keeps its logits until they are known, and no product is made
// twice (`pairwise` recomputes the logits, because columns have sums too).
//
// One panel of rows after the other; the threads divide each of its steps:
//   1. logits of a column block into its tile of the panel, maximum and sum of its rows,
//   2. the rows of the loss and the factor of their weights,
//   3. weights in place of the logits, grad_b += W^T A for one column block,
//   4. grad_a = W B, by rows and groups of columns of B.
// B is packed by columns for step 4, unless so few panels read it that a copy of 96 rows at a time, which stays in the
// L1 cache, is cheaper than writing the whole: a queue of negatives against a batch.
// Rows whose columns get no gradient, as queries against a queue, need no panel where exponentials are in the narrow
// range: a block of columns adds e^s to the sums and e^s B to the gradient of its part of the columns while its logits
// are in the cache, and the gradient is divided by the sums at the end (see `visit`).
// Memory: 192 rows of logits. Precision policy: products and tile sums in T, sums over tiles and the loss of a row in
// fp64; the order of all sums is given by the shapes alone.
#include "pairwise/cpu/value_and_grad.h"

#include "pairwise/cpu/panels.h"
#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct Rows : PairwisePanels<T> {
  using Base = PairwisePanels<T>;
  using Base::p, Base::w, Base::cols, Base::for_tiles, Base::limit, Base::L, Base::R, Base::V, Base::kLd, Base::kScale;
  static constexpr int64_t kBlock = Tile<T>::kBlock, kTile = kBlock * kLd;
  static constexpr int64_t kFewPanels = 2;
  static constexpr int64_t kParts = 32, kFewParts = 8;  // of the columns, each with its own sums and gradient

  const OnePositiveArgs<T>& q;
  T *top, *sum;       // [column block][row of the panel]
  bool packed;        // B by columns
  int64_t parts = 0;  // of the columns that are visited once; 0: a panel is needed

  explicit Rows(const OnePositiveArgs<T>& args)
      : Base(args.pairwise, needs_columns(args) ? Pass::backward : Pass::forward), q(args), packed(many(args)) {
    top = q.panel + cols.count * kTile, sum = top + cols.count * kBlock;
    if (needs_columns(args)) return;
    w = PairwiseBuffers<T>(p.workspace, p.n, p.m, p.d, p.symmetric, true);
    zero(p.grad_a, p.n * p.d);
    parts = parts_of_columns();
    if (p.grad_b != nullptr) {
      pack_columns<T>(p.a, p.lda, 0, p.n, p.n, p.d, {p.scale, p.scale_step}, w.a_columns);
      parallel_for(cols.count, p.threads,
                   [&](int64_t bj) { zero(p.grad_b + cols.begin(bj) * p.d, cols.size(bj) * p.d); });
    } else if (packed && parts == 0) {
      parallel_for(cols.count, p.threads, [&](int64_t bj) {
        pack_columns<T>(p.b, p.ldb, cols.begin(bj), cols.begin(bj + 1), p.m, p.d, {}, w.b_columns);
      });
    }
  }
  static bool many(const OnePositiveArgs<T>& args) { return args.pairwise.n > kFewPanels * kBlock; }
  static bool needs_columns(const OnePositiveArgs<T>& args) { return many(args) && args.pairwise.grad_b != nullptr; }
  static int64_t panel_size(int64_t m) { return Blocks(m).count * (kTile + 2 * kBlock); }
  T* tile(int64_t bj) const { return q.panel + bj * kTile; }

  void logits(int64_t i0, int64_t ni, int64_t bj) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
    T* s = tile(bj);
    const Vec<T> none{};
    for_tiles(i0, ni, j0, nj, s, T(1), [&](int64_t i, int64_t j, const auto& x, auto) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(s + (i + r) * kLd + j + v * L, x(r, v, none));
    });
    for (int64_t i = 0; i < ni; ++i) {
      const T* row = s + i * kLd;
      Vec<T> high = load(row), total{};
      for (int64_t j = L; j < nj; j += L) high = vmax<T>(load(row + j), high);
      // a block without any pair: any finite shift gives exponentials of 0
      const T most = hmax<T>(high), shift = most == kNegInf<T> ? T(0) : most;
      for (int64_t j = 0; j < nj; j += L) total += exp2<T>((load(row + j) - shift) * kScale);
      top[bj * kBlock + i] = most, sum[bj * kBlock + i] = hsum<T>(total);
    }
  }

  // The loss of row i of the panel, softplus(lse - positive); its weights are -grad_positive exp(s - shift).
  void finish_row(int64_t i0, int64_t i) const {
    double high = -HUGE_VAL, total = 0;
    for (int64_t b = 0; b < cols.count; ++b)
      if (!(double(top[b * kBlock + i]) <= high)) high = double(top[b * kBlock + i]);  // keeps NaN
    for (int64_t b = 0; b < cols.count; ++b)
      if (sum[b * kBlock + i] != 0) total += double(sum[b * kBlock + i]) * std::exp(double(top[b * kBlock + i]) - high);
    const double lse = high + std::log(total);
    set_loss(i0 + i, lse, total == 0);
    w.row_shift[i0 + i] = total == 0 ? T(0) : static_cast<T>(lse);
  }
  // empty: no pair in the row, no loss, no gradient
  void set_loss(int64_t i, double lse, bool empty) const {
    const double margin = lse - double(q.positive[i]);
    p.row_lse[i] = empty ? T(0) : static_cast<T>(softplus(margin));
    q.grad_positive[i] = -(empty ? T(0) : static_cast<T>(sigmoid(margin) * double(p.grad_row[i])));
  }

  void weights(int64_t i0, int64_t ni, int64_t bj) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
    T* s = tile(bj);
    for (int64_t i = 0; i < ni; ++i) {
      const T shift = w.row_shift[i0 + i], factor = -q.grad_positive[i0 + i];
      for (int64_t j = 0; j < nj; j += L)
        store(s + i * kLd + j, exp2<T>((load(s + i * kLd + j) - shift) * kScale) * factor);
    }
    if (p.grad_b != nullptr)
      block_accumulate<true, T>(s, kLd, nj, ni, {w.a_columns, p.n, i0}, p.grad_b + j0 * p.d, p.d, p.d);
  }

  void left_gradient(int64_t i0, int64_t r0, int64_t count, int64_t c0) const {
    const int64_t width = min64(Wide<T>::kCols, p.d - c0);
    T* out = p.grad_a + (i0 + r0) * p.d + c0;
    alignas(64) T panel[Wide<T>::kDepth * Wide<T>::kCols];
    for (int64_t bj = 0; bj < cols.count; ++bj) {
      const T* s = tile(bj) + r0 * kLd;
      const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
      if (packed) {
        block_accumulate<false, T>(s, kLd, count, nj, {w.b_columns + c0 * p.m, p.m, j0}, out, p.d, width);
        continue;
      }
      for (int64_t k = 0; k < nj; k += Wide<T>::kDepth) {  // the steps of block_accumulate: the same sums
        const int64_t depth = min64(Wide<T>::kDepth, nj - k);
        pack_columns<T>(p.b + (j0 + k) * p.ldb + c0, p.ldb, 0, depth, depth, width, {}, panel);
        block_accumulate<false, T>(s + k, kLd, count, depth, {panel, depth, 0}, out, p.d, width);
      }
    }
  }

  // How many parts find place in the memory of the panel, or 0.
  int64_t parts_of_columns() const {
    if (p.grad_b != nullptr || !is_narrow<T>(limit)) return 0;
    const int64_t most = min64(cols.count, kParts), fit = panel_size(p.m) / max64(1, p.n * p.d);
    return fit < min64(most, kFewParts) ? 0 : min64(most, fit);
  }

  // Column blocks [first, last): sum[i] += e^s and out (n x d) += e^s B.
  void visit(int64_t first, int64_t last, double* sum, T* out) const {
    const int64_t width = round_up(p.d, Wide<T>::kCols);
    T* const e = static_cast<T*>(scratch(0, sizeof(T) * kTile));
    T* const columns = static_cast<T*>(scratch(1, sizeof(T) * static_cast<size_t>(kBlock * width)));
    for (int64_t i = 0; i < p.n; ++i) sum[i] = 0;
    zero(out, p.n * p.d);
    for (int64_t bj = first; bj < last; ++bj) {
      const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
      pack_columns<T>(p.b + j0 * p.ldb, p.ldb, 0, nj, nj, p.d, {}, columns);
      for (int64_t i0 = 0; i0 < p.n; i0 += kBlock) {
        const int64_t ni = min64(kBlock, p.n - i0);
        Vec<T> total[kBlock] = {};
        for_tiles(i0, ni, j0, nj, e, kScale,
                  [&](int64_t i, int64_t j, const auto& x, auto plain) __attribute__((always_inline)) {
                    const Vec<T> none{};
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                      for (int v = 0; v < V; ++v) {
                        const Vec<T> power = narrow_power<T, decltype(plain)::value>(x(r, v, none));
                        total[i + r] += power;
                        store(e + (i + r) * kLd + j + v * L, power);
                      }
                  });
        for (int64_t i = 0; i < ni; ++i) sum[i0 + i] += double(hsum<T>(total[i]));
        block_accumulate<false, T>(e, kLd, ni, nj, {columns, nj, 0}, out + i0 * p.d, p.d, p.d);
      }
    }
  }

  // grad_a of rows [first, end) from the sums and gradients of all parts: -grad_positive e^(s - lse) B.
  void join(int64_t first, int64_t end, const double* sums) const {
    for (int64_t i = first; i < end; ++i) {
      double total = 0;
      for (int64_t part = 0; part < parts; ++part) total += sums[part * p.n + i];
      set_loss(i, std::log(total), total == 0);
      const T factor = total == 0 ? T(0) : static_cast<T>(-double(q.grad_positive[i]) / total);
      T* const out = p.grad_a + i * p.d;
      for (int64_t part = 0; part < parts; ++part) {
        const T* const own = q.panel + (part * p.n + i) * p.d;
        for (int64_t k = 0; k < p.d; ++k) out[k] += own[k];
      }
      for (int64_t k = 0; k < p.d; ++k) out[k] *= factor;
    }
  }

  void run_by_parts() const {
    double* const sums = static_cast<double*>(scratch(2, sizeof(double) * static_cast<size_t>(parts * p.n)));
    parallel_for(parts, p.threads, [&](int64_t t) {
      const FlushSubnormals flush;
      visit(cols.count * t / parts, cols.count * (t + 1) / parts, sums + t * p.n, q.panel + t * p.n * p.d);
    });
    for_row_ranges(p.n, p.threads, [&](int64_t first, int64_t end) { join(first, end, sums); });
  }

  void run() const {
    if (parts > 0) return run_by_parts();
    const int64_t panels = (p.d + Wide<T>::kCols - 1) / Wide<T>::kCols;
    // How rows are divided does not touch the order of any sum.
    const int64_t step = panels >= 2 * p.threads || panels % p.threads == 0 ? kBlock : Blocks::kUnit;
    for (int64_t i0 = 0; i0 < p.n; i0 += kBlock) {
      const int64_t ni = min64(kBlock, p.n - i0), parts = (ni + step - 1) / step;
      parallel_for(cols.count, p.threads, [&](int64_t bj) { logits(i0, ni, bj); });
      for (int64_t i = 0; i < ni; ++i) finish_row(i0, i);
      parallel_for(cols.count, p.threads, [&](int64_t bj) {
        const FlushSubnormals flush;
        weights(i0, ni, bj);
      });
      parallel_for(parts * panels, p.threads, [&](int64_t t) {
        const FlushSubnormals flush;
        const int64_t r0 = t % parts * step;
        left_gradient(i0, r0, min64(step, ni - r0), t / parts * Wide<T>::kCols);
      });
    }
  }
};

}  // namespace

template <typename T>
int64_t pairwise_one_positive_panel(int64_t m) {
  return Rows<T>::panel_size(m);
}
template <typename T>
void pairwise_one_positive(const OnePositiveArgs<T>& args) {
  Rows<T>(args).run();
}

template int64_t pairwise_one_positive_panel<float>(int64_t);
template int64_t pairwise_one_positive_panel<double>(int64_t);
template void pairwise_one_positive<float>(const OnePositiveArgs<float>&);
template void pairwise_one_positive<double>(const OnePositiveArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

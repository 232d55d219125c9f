// Rows of a softmax with one positive and the gradient of their weighted sum, in one visit of every logit: the weights
// of a row need only its own sum, so exponentials are kept until it is known, and no product is made twice (`pairwise`
// recomputes the logits, because columns have sums too).
//
// A panel of rows after the other:
//   1. by rows of the panel: exponentials and their sums, the losses, grad_a = W B,
//   2. by columns: grad_b += W^T A.
// In the narrow range of logits the exponentials are e^s, made while the products are in registers; W is never stored,
// because it is e^s times a factor of the row, by which the gradient of the row and its row of A are multiplied. Else an
// exponential is relative to the largest logit of its row in its block of columns, and becomes W once the sum is known.
// A thread does all of step 1 for some rows, which finds their exponentials in its caches; where a panel has fewer units
// of rows than there are threads, all threads do one part of step 1 after the other. Both give the same bits.
//
// B is packed by columns, unless so few rows read it that a copy of one block at a time, which stays in the cache, is
// cheaper than writing the whole: a queue of negatives against a batch.
// Rows whose columns get no gradient, as queries against a queue, need no panel where exponentials are in the narrow
// range: a block of columns adds e^s to the sums and e^s B to the gradient of its part of the columns while its logits
// are in the cache, and the gradient is divided by the sums at the end (see `visit`).
// Memory: 192 to 384 rows of logits. Precision policy: products and tile sums in T, sums over tiles and the loss of a
// row in fp64; the order of all sums is given by the shapes alone.
#include "pairwise/cpu/value_and_grad.h"

#include "pairwise/cpu/panels.h"
#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct Rows : PairwisePanels<T> {
  using Base = PairwisePanels<T>;
  using Base::p, Base::w, Base::cols, Base::for_tiles, Base::limit, Base::L, Base::R, Base::V, Base::kLd, Base::kScale;
  static constexpr int64_t kBlock = Tile<T>::kBlock, kTile = kBlock * kLd, kUnit = Blocks::kUnit;
  static constexpr int64_t kMostRows = 2 * kBlock;           // of a panel
  static constexpr int64_t kPanelBytes = int64_t{16} << 20;  // of which a panel has more where kBlock rows need them
  static constexpr int64_t kParts = 32, kFewParts = 8;       // of the columns, each with its own sums and gradient
  // Rows of W are added to grad_b by kStep: panels begin at multiples of it, so that their number changes no sum.
  static constexpr int64_t kStep = Wide<T>::kDepth;
  static_assert(kStep % kUnit == 0 && kBlock % kStep == 0);

  const OnePositiveArgs<T>& q;
  const bool narrow, packed;  // the range of logits; B by columns
  const int64_t height;       // most rows of a panel
  T *top, *sum;               // [column block][row of the panel]
  int64_t parts = 0;          // of the columns that are visited once; 0: a panel is needed

  explicit Rows(const OnePositiveArgs<T>& args)
      : Base(args.pairwise, Pass::forward), q(args), narrow(is_narrow<T>(limit)), packed(p.n > kMostRows),
        height(panel_rows(p.n, p.m)) {
    top = q.panel + cols.count * height * kLd, sum = top + cols.count * height;
    w = PairwiseBuffers<T>(p.workspace, p.n, p.m, p.d, p.symmetric, true);
    parts = parts_of_columns();
    if (packed && parts == 0)
      parallel_for(cols.count, p.threads, [&](int64_t bj) {
        pack_columns<T>(p.b, p.ldb, cols.begin(bj), cols.begin(bj + 1), p.m, p.d, {}, w.b_columns);
      });
  }
  static int64_t row_size(int64_t m) { return Blocks(m).count * (kLd + 2); }
  static int64_t panel_rows(int64_t n, int64_t m) {
    const int64_t fit = kPanelBytes / int64_t{sizeof(T)} / max64(1, row_size(m)) / kStep * kStep;
    return min64(max64(kBlock, min64(fit, kMostRows)), max64(kBlock, round_up(n, kStep)));
  }
  static int64_t panel_size(int64_t n, int64_t m) { return panel_rows(n, m) * row_size(m); }

  // Some rows of a panel: which ones, and where they are in the panel.
  struct Part {
    int64_t i0, ni, at;
  };
  T* tile(int64_t bj, int64_t row) const { return q.panel + (bj * height + row) * kLd; }

  // e = e^s for rows [i0, i0 + ni) and a block of columns, total[i] += their sums, lane by lane
  void powers(int64_t i0, int64_t ni, int64_t bj, T* e, Vec<T>* total) const {
    for_tiles(i0, ni, cols.begin(bj), cols.size(bj), e, kScale,
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
  }

  void exponentials(const Part& part, int64_t bj) const {
    const int64_t i0 = part.i0, ni = part.ni, j0 = cols.begin(bj), nj = cols.size(bj);
    T *const e = tile(bj, part.at), *const tops = top + bj * height + part.at,
             *const sums = sum + bj * height + part.at;
    if (narrow) {
      Vec<T> total[kBlock] = {};
      powers(i0, ni, bj, e, total);
      for (int64_t i = 0; i < ni; ++i) tops[i] = 0, sums[i] = hsum<T>(total[i]);
      return;
    }
    const Vec<T> none{};
    for_tiles(i0, ni, j0, nj, e, T(1), [&](int64_t i, int64_t j, const auto& x, auto) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(e + (i + r) * kLd + j + v * L, x(r, v, none));
    });
    for (int64_t i = 0; i < ni; ++i) {
      T* row = e + i * kLd;
      Vec<T> high = load(row), total{};
      for (int64_t j = L; j < nj; j += L) high = vmax<T>(load(row + j), high);
      // a block without any pair: any finite shift gives exponentials of 0
      const T most = hmax<T>(high), shift = most == kNegInf<T> ? T(0) : most;
      for (int64_t j = 0; j < nj; j += L) {
        const Vec<T> power = exp2<T>((load(row + j) - shift) * kScale);
        total += power;
        store(row + j, power);
      }
      tops[i] = most, sums[i] = hsum<T>(total);
    }
  }

  // The losses of rows, softplus(lse - positive), what their exponentials are to be multiplied by, and their rows of A.
  void finish(const Part& part) const {
    for (int64_t i = 0; i < part.ni; ++i) {
      T* const tops = top + part.at + i;
      const T* const sums = sum + part.at + i;
      double high = narrow ? 0 : -HUGE_VAL, total = 0;
      for (int64_t b = 0; !narrow && b < cols.count; ++b)
        if (!(double(tops[b * height]) <= high)) high = double(tops[b * height]);  // keeps NaN
      for (int64_t b = 0; b < cols.count; ++b)
        if (narrow)
          total += double(sums[b * height]);
        else if (sums[b * height] != 0)
          total += double(sums[b * height]) * std::exp(double(tops[b * height]) - high);
      const int64_t row = part.i0 + i;
      const double factor = finish_row(row, high, total);
      const T scale = p.scale[row * p.scale_step];
      w.row_weight[row] = narrow ? static_cast<T>(factor) * scale : scale;
      if (narrow)
        for (int64_t k = 0; k < p.d; ++k) p.grad_a[row * p.d + k] *= static_cast<T>(factor);
      else
        for (int64_t b = 0; b < cols.count; ++b)
          tops[b * height] = static_cast<T>(factor * std::exp(double(tops[b * height]) - high));
    }
    if (p.grad_b != nullptr)
      pack_columns<T>(p.a, p.lda, part.i0, part.i0 + part.ni, p.n, p.d, {w.row_weight, 1}, w.a_columns);
  }
  // The loss of row i, whose sum of e^(s - high) is given; returns the factor of those in its weights. A row without any
  // pair has no loss and no gradient.
  double finish_row(int64_t i, double high, double total) const {
    const bool empty = total == 0;
    const double margin = high + std::log(total) - double(q.positive[i]);
    p.row_lse[i] = empty ? T(0) : static_cast<T>(softplus(margin));
    q.grad_positive[i] = -(empty ? T(0) : static_cast<T>(sigmoid(margin) * double(p.grad_row[i])));
    return empty ? 0 : -double(q.grad_positive[i]) / total;
  }

  void weights(const Part& part, int64_t bj) const {
    for (int64_t i = 0; i < part.ni; ++i) {
      T* const row = tile(bj, part.at + i);
      const T factor = top[bj * height + part.at + i];
      for (int64_t j = 0; j < cols.size(bj); j += L) store(row + j, load(row + j) * factor);
    }
  }

  // Columns [c0, c0 + width) of the gradient of some rows += those of E B for a block of B.
  void left_gradient(const Part& part, int64_t bj, int64_t c0, int64_t width) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
    ColumnPanels<T> columns{w.b_columns + c0 * p.m, p.m, j0};
    if (!packed) {
      const size_t bytes = sizeof(T) * static_cast<size_t>(kBlock * round_up(width, Wide<T>::kCols));
      T* const copy = static_cast<T*>(scratch(1, bytes));
      pack_columns<T>(p.b + j0 * p.ldb + c0, p.ldb, 0, nj, nj, width, {}, copy);
      columns = {copy, nj, 0};
    }
    block_accumulate<false, T>(tile(bj, part.at), kLd, part.ni, nj, columns, p.grad_a + part.i0 * p.d + c0, p.d, width);
  }

  // Columns [j0, j0 + nj), which lie in block bj, of a panel.
  void right_gradient(const Part& panel, int64_t bj, int64_t j0, int64_t nj) const {
    T* const out = p.grad_b + j0 * p.d;
    if (panel.i0 == 0) zero(out, nj * p.d);
    block_accumulate<true, T>(tile(bj, 0) + (j0 - cols.begin(bj)), kLd, nj, panel.ni, {w.a_columns, p.n, panel.i0}, out,
                              p.d, p.d);
  }

  // f(part) for `count` parts of a panel, and for each of them `times` times.
  template <typename F>
  void for_parts(const Part& panel, int64_t count, int64_t times, const F& f) const {
    const int64_t units = (panel.ni + kUnit - 1) / kUnit;
    parallel_for(count * times, p.threads, [&](int64_t t) {
      const FlushSubnormals flush;
      const int64_t k = t / times, r0 = units * k / count * kUnit,
                    r1 = min64(panel.ni, units * (k + 1) / count * kUnit);
      f(Part{panel.i0 + r0, r1 - r0, r0}, t % times);
    });
  }

  void left(const Part& panel) const {
    const int64_t units = (panel.ni + kUnit - 1) / kUnit, blocks = (units + 3) / 4;
    const auto start = [&](const Part& part) { zero(p.grad_a + part.i0 * p.d, part.ni * p.d); };
    if (units >= p.threads) {
      for_parts(panel, min64(units, round_up(blocks, p.threads)), 1, [&](const Part& part, int64_t) {
        start(part);
        for (int64_t bj = 0; bj < cols.count; ++bj) {
          exponentials(part, bj);
          if (narrow) left_gradient(part, bj, 0, p.d);
        }
        finish(part);
        for (int64_t bj = 0; !narrow && bj < cols.count; ++bj) {
          weights(part, bj);
          left_gradient(part, bj, 0, p.d);
        }
      });
      return;
    }
    const int64_t width = Wide<T>::kCols, slices = (p.d + width - 1) / width;
    for_parts(panel, blocks, cols.count, [&](const Part& part, int64_t bj) { exponentials(part, bj); });
    const auto gradient = [&] {
      for_parts(panel, units, 1, [&](const Part& part, int64_t) { start(part); });
      for_parts(panel, units, slices, [&](const Part& part, int64_t slice) {
        for (int64_t bj = 0; bj < cols.count; ++bj)
          left_gradient(part, bj, slice * width, min64(width, p.d - slice * width));
      });
    };
    if (narrow) gradient();
    for_parts(panel, units, 1, [&](const Part& part, int64_t) { finish(part); });
    if (narrow) return;
    for_parts(panel, blocks, cols.count, [&](const Part& part, int64_t bj) { weights(part, bj); });
    gradient();
  }

  void right(const Part& panel) const {
    const bool by_block = cols.count >= 2 * p.threads;
    parallel_for(by_block ? cols.count : cols.units, p.threads, [&](int64_t t) {
      const FlushSubnormals flush;
      if (by_block) return right_gradient(panel, t, cols.begin(t), cols.size(t));
      right_gradient(panel, cols.of_unit(t), t * kUnit, min64(kUnit, p.m - t * kUnit));
    });
  }

  // How many parts find place in the memory of the panel, or 0.
  int64_t parts_of_columns() const {
    if (p.grad_b != nullptr || !narrow) return 0;
    const int64_t most = min64(cols.count, kParts), fit = panel_size(p.n, p.m) / max64(1, p.n * p.d);
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
        powers(i0, ni, bj, e, total);
        for (int64_t i = 0; i < ni; ++i) sum[i0 + i] += double(hsum<T>(total[i]));
        block_accumulate<false, T>(e, kLd, ni, nj, {columns, nj, 0}, out + i0 * p.d, p.d, p.d);
      }
    }
  }

  // grad_a of rows [first, end) from the sums and gradients of all parts.
  void join(int64_t first, int64_t end, const double* sums) const {
    for (int64_t i = first; i < end; ++i) {
      double total = 0;
      for (int64_t part = 0; part < parts; ++part) total += sums[part * p.n + i];
      const T factor = static_cast<T>(finish_row(i, 0, total));
      T* const out = p.grad_a + i * p.d;
      zero(out, p.d);
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
    const int64_t steps = (p.n + kStep - 1) / kStep, panels = (steps * kStep + height - 1) / height;
    for (int64_t k = 0; k < panels; ++k) {
      const int64_t i0 = steps * k / panels * kStep, end = min64(p.n, steps * (k + 1) / panels * kStep);
      const Part panel{i0, end - i0, 0};
      left(panel);
      if (p.grad_b != nullptr) right(panel);
    }
    if (p.n == 0 && p.grad_b != nullptr) zero(p.grad_b, p.m * p.d);
  }
};

}  // namespace

template <typename T>
int64_t pairwise_one_positive_panel(int64_t n, int64_t m) {
  return Rows<T>::panel_size(n, m);
}
template <typename T>
void pairwise_one_positive(const OnePositiveArgs<T>& args) {
  Rows<T>(args).run();
}

template int64_t pairwise_one_positive_panel<float>(int64_t, int64_t);
template int64_t pairwise_one_positive_panel<double>(int64_t, int64_t);
template void pairwise_one_positive<float>(const OnePositiveArgs<float>&);
template void pairwise_one_positive<double>(const OnePositiveArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

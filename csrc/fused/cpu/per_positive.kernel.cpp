// A softmax for every positive pair: the statistics and the gradient of the pairs of other classes are those of
// pairwise/cpu/softmax.h; the losses of the positives are made as soon as the statistics of their row are known. Their
// logits are few, and made again for the gradient.
//
// Precision policy: logits, losses and slopes of single pairs in T; sums over the positives of a row in fp64.
#include "fused/cpu/per_positive.h"

#include "pairwise/cpu/sigmoid.h"
#include "pairwise/cpu/softmax.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

constexpr int64_t kChunk = 64;  // positives of a row at a time

template <typename T, typename Index>
struct Positives {
  using Terms = Sigmoid<PairwisePanels<T>>;
  static constexpr int L = kLanes<T>;
  const PerPositiveArgs<T>& q;
  const PairwiseArgs<T>& p;
  const Index* columns;
  T c;

  explicit Positives(const PerPositiveArgs<T>& args)
      : q(args), p(args.pairwise), columns(static_cast<const Index*>(args.positives.indices)), c(p.scale[0]) {}

  T value(int64_t e) const {
    const SparseArgs<T>& a = q.positives;
    if (a.values == nullptr) return 1;
    return a.precise ? static_cast<T>(static_cast<const double*>(a.values)[e])
                     : static_cast<T>(static_cast<const float*>(a.values)[e]);
  }
  const T* row(int64_t i) const { return p.a + i * p.lda; }

  // use(first entry, how many, their logits, their values) for the positives of row i, a chunk at a time; whole
  // registers, with the value 0 behind the last.
  template <typename Use>
  void for_chunks(int64_t i, const Use& use) const {
    const int64_t end = q.positives.indptr[i + 1];
    alignas(64) T s[kChunk], g[kChunk];
    for (int64_t e = q.positives.indptr[i]; e < end; e += kChunk) {
      const int64_t count = min64(kChunk, end - e);
      for (int64_t k = 0; k < count; ++k) s[k] = c * row_dot(row(i), row(columns[e + k]), p.d), g[k] = value(e + k);
      for (int64_t k = count; k < round_up(count, L); ++k) s[k] = g[k] = 0;
      use(e, count, s, g);
    }
  }

  // The loss of row i, and the sum of its slopes.
  void weigh(int64_t i) const {
    const T lse = p.row_lse[i];
    double loss = 0, slopes = 0;
    for_chunks(i, [&](int64_t, int64_t count, const T* s, const T* g) {
      Vec<T> some_loss{}, some_slopes{};
      for (int64_t k = 0; k < count; k += L) {
        const Vec<T> x = lse - load(s + k), t = Terms::decay(x), by = load(g + k);
        some_loss += by * Terms::softplus(x, t);
        some_slopes += by * Terms::slope(x, t);
      }
      loss += double(hsum<T>(some_loss)), slopes += double(hsum<T>(some_slopes));
    });
    q.rows[i] = static_cast<T>(loss);
    q.slopes[i] = static_cast<T>(double(q.weight[i]) * slopes);
  }

  // The gradient of row i from that of the pairs of other classes.
  void finish(int64_t i) const {
    double* const sum = static_cast<double*>(scratch(0, sizeof(double) * static_cast<size_t>(p.d)));
    zero(sum, p.d);
    for_chunks(i, [&](int64_t first, int64_t count, const T* s, const T* g) {
      alignas(64) T lse[kChunk] = {}, weight[kChunk] = {}, v[kChunk];
      for (int64_t k = 0; k < count; ++k)
        lse[k] = p.row_lse[columns[first + k]], weight[k] = q.weight[columns[first + k]];
      for (int64_t k = 0; k < count; k += L) {
        const Vec<T> logit = load(s + k), own = p.row_lse[i] - logit, other = load(lse + k) - logit;
        store(v + k, load(g + k) * (q.weight[i] * Terms::slope(own, Terms::decay(own)) +
                                    load(weight + k) * Terms::slope(other, Terms::decay(other))));
      }
      for (int64_t k = 0; k < count; ++k) {
        const T* const x = row(columns[first + k]);
        const double factor = double(v[k]);
        for (int64_t j = 0; j < p.d; ++j) sum[j] += factor * double(x[j]);
      }
    });
    T* const out = p.grad_a + i * p.d;
    for (int64_t j = 0; j < p.d; ++j) out[j] = static_cast<T>(double(c) * (double(out[j]) - sum[j]));
  }

  void run() const {
    const auto rows = [&](int64_t first, int64_t end) {
      for (int64_t i = first; i < end; ++i) weigh(i);
    };
    if (p.grad_a == nullptr) {
      Softmax<PairwisePanels<T>>(p, Pass::forward).forward();
      return for_row_ranges(p.n, p.threads, rows);
    }
    Softmax<PairwisePanels<T>>(p, Pass::both).value_and_grad(RowsCallback::to(rows));
    for_rows(p.n, p.threads, [&](int64_t i) { finish(i); });
  }
};

}  // namespace

template <typename T>
void per_positive(const PerPositiveArgs<T>& args) {
  args.positives.wide ? Positives<T, int64_t>(args).run() : Positives<T, int32_t>(args).run();
}

template void per_positive<float>(const PerPositiveArgs<float>&);
template void per_positive<double>(const PerPositiveArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

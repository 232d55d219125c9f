// Soft cross-entropy among the rows of a batch. Students and teachers both have symmetric products, so that a pair of
// blocks (pair_schedule.h) serves the rows of both: half of each of the two products of logits, and one of the
// gradient, where rows against all columns take four products.
//
// A first pass over the pairs makes the statistics of both softmaxes (softmax.h) and keeps the products (simd/kept.h),
// a second one the weights p - q of both blocks and their gradients. Products that find no room are made again.
//
// Precision policy: that of softmax.h. With top the largest logit of a row, its loss is sum_j q_j (top - s_j) + log
// sum_j exp(s_j - top): no term is negative, and the size of the logits is not in any of them.
#pragma once
#include "pairwise/cpu/soft_self.h"
#include "pairwise/cpu/softmax.h"

namespace sslspec::cpu {
namespace {

template <typename Panels>
struct SoftSelf {
  using T = typename Panels::T;
  using Side = Softmax<Panels>;
  static constexpr int L = Side::L, R = Side::R, V = Side::V, kLd = Side::kLd, kTogether = Side::kTogether;
  static constexpr int64_t kSize = R * V * L;  // of a register tile
  static constexpr T kScale = Side::kScale;
  // in place of the logits that are left out: finite, so that 0 times it is 0
  static constexpr T kFloor = static_cast<T>(sizeof(T) == 4 ? -1e37 : -1e300);

  Side s, t;
  const T* weight;
  T *losses, *entropies, *inverse;  // of the rows, padded: sums, and 1 / the sum of exponentials of the teacher
  Kept kept;

  template <typename Args>
  explicit SoftSelf(const Args& args)
      : s(args.student, args.student.grad_a == nullptr ? Pass::forward : Pass::backward),
        t(args.teacher, Pass::forward), weight(args.weight), losses(args.sums),
        entropies(losses + soft_self_rows(s.p.n)), inverse(entropies + soft_self_rows(s.p.n)),
        kept(2 * s.all_products() * int64_t{sizeof(T)}) {
    s.narrow = t.narrow = false;  // the largest logits of the rows are the shift
  }

  void run() {
    s.start(), t.start();
    s.for_pairs([&](int64_t bi, int64_t bj) {
      T* keep = products(bi, bj);
      T* const others = keep == nullptr ? nullptr : keep + s.kept_of(bi, bj);
      s.running_sums(s.whole(bi, bj, {keep, s.rows.size(bi)}, true));
      t.running_sums(t.whole(bi, bj, {others, t.rows.size(bi)}, true));
    });
    for (int64_t i = 0; i < soft_self_rows(s.p.n); ++i) begin_row(i);
    s.for_pairs([&](int64_t bi, int64_t bj) { s.p.grad_a == nullptr ? pair<false>(bi, bj) : pair<true>(bi, bj); });
    for_rows(s.p.n, s.p.threads, [&](int64_t i) {
      s.p.row_lse[i] = weight[i] * (inverse[i] * losses[i] + s.p.row_lse[i]);
      t.p.row_lse[i] = inverse[i] * entropies[i] + t.p.row_lse[i];
    });
  }

  // From sums of exponentials to the factors of their weights; the logarithms of the sums wait in row_lse. Rows behind
  // the last one, and a row without any other, have no weight.
  void begin_row(int64_t i) const {
    const bool none = i >= s.p.n || t.w.row_weight[i] == 0;
    const double own = none ? 1 : double(s.w.row_weight[i]), other = none ? 1 : double(t.w.row_weight[i]);
    const double g = none ? 0 : double(weight[i]);
    if (none) s.w.row_shift[i] = t.w.row_shift[i] = 0;
    s.w.row_weight[i] = static_cast<T>(g / own), t.w.row_weight[i] = static_cast<T>(g / other);
    inverse[i] = static_cast<T>(1 / other), losses[i] = entropies[i] = 0;
    if (i >= s.p.n) return;
    s.p.row_lse[i] = static_cast<T>(__builtin_log(own)), t.p.row_lse[i] = static_cast<T>(__builtin_log(other));
  }

  // The products of the students of a pair of blocks and then those of the teachers; null: not kept
  T* products(int64_t bi, int64_t bj) const {
    if (kept.data() == nullptr) return nullptr;
    const int64_t before = 2 * s.kept_before(bi, bj), end = before + 2 * s.kept_of(bi, bj);
    return end * int64_t{sizeof(T)} <= kept.bytes() ? static_cast<T*>(kept.data()) + before : nullptr;
  }

  template <bool kGrad>
  void pair(int64_t bi, int64_t bj) const {
    const int64_t i0 = s.rows.begin(bi), ni = s.rows.size(bi), j0 = s.cols.begin(bj), nj = s.cols.size(bj);
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * Side::kTileSize));
    const int64_t each = s.kept_of(bi, bj);
    T* both = products(bi, bj);
    if (both == nullptr) {
      both = static_cast<T*>(scratch(2, 2 * sizeof(T) * each));
      const auto nothing = [](int64_t, int64_t, const auto&, auto) {};
      s.for_tiles(i0, ni, j0, nj, tile, T(1), nothing, {both, ni});
      t.for_tiles(i0, ni, j0, nj, tile, T(1), nothing, {both + each, ni});
    }
    Vec<T>* sums = static_cast<Vec<T>*>(scratch(1, 4 * sizeof(Vec<T>) * kLd));
    for (int64_t k = 0; k < 4 * kLd; ++k) sums[k] = Vec<T>{};
    weights<kGrad>({i0, ni, j0, nj}, both, both + each, sums, tile);
    for (int64_t i = 0; i < ni; ++i) {
      losses[i0 + i] += hsum<T>(sums[i]);
      entropies[i0 + i] += hsum<T>(sums[kLd + i]);
    }
    for (int64_t j = 0; bi != bj && j < nj; j += L) {
      store(losses + j0 + j, load(losses + j0 + j) + sums[2 * kLd + j / L]);
      store(entropies + j0 + j, load(entropies + j0 + j) + sums[3 * kLd + j / L]);
    }
    if constexpr (kGrad) s.accumulate(tile, i0, ni, j0, nj, s.p.grad_a, bi == bj ? nullptr : s.p.grad_a);
  }

  // The weights of a block into `tile`; the losses of its rows, their entropies, and those of its columns into `sums`.
  template <bool kGrad>
  void weights(Block block, const T* students, const T* teachers, Vec<T>* sums, T* tile) const {
    const auto [i0, ni, j0, nj] = block;
    BlockMask<T> left_out(s.p, i0, ni, j0, nj);
    alignas(64) T masked[2 * kSize];
    for (int64_t j = 0; j < nj; j += V * L)
      for (int64_t i = 0; i < ni; i += R, students += kSize, teachers += kSize) {
        if (__builtin_expect(left_out.meets(i, j), 0)) {
          mask(left_out, i, j, students, s.logit_scale, masked);
          mask(left_out, i, j, teachers, t.logit_scale, masked + kSize);
          one_tile<kGrad>(block, i, j, {masked, T(1), masked + kSize, T(1)}, sums, tile);
        } else {
          one_tile<kGrad>(block, i, j, {students, s.logit_scale, teachers, t.logit_scale}, sums, tile);
        }
      }
  }

  static void mask(BlockMask<T>& left_out, int64_t i, int64_t j, const T* products, T scale, T* out) {
    for (int64_t k = 0; k < kSize; ++k) out[k] = scale * products[k];
    left_out.apply(i, j, out);
    for (int64_t k = 0; k < kSize; ++k)
      if (out[k] == kNegInf<T>) out[k] = kFloor;
  }

  struct Products {
    const T* students;
    T student_scale;
    const T* teachers;
    T teacher_scale;
  };

  template <bool kGrad>
  inline __attribute__((always_inline)) void one_tile(Block block, int64_t i, int64_t j, Products x, Vec<T>* sums,
                                                      T* tile) const {
    const int64_t row = block.i0 + i, column = block.j0 + j;
    Vec<T>*column_loss = sums + 2 * kLd + j / L, *column_entropy = sums + 3 * kLd + j / L;
    for (int r = 0; r < R; r += kTogether) {
      Vec<T> e[kTogether][V];
#pragma GCC unroll 2
      for (int k = 0; k < kTogether; ++k) {
        const int64_t at = row + r + k;
        const T top = s.w.row_shift[at], target_top = t.w.row_shift[at];
        const T of_student = s.w.row_weight[at], of_teacher = t.w.row_weight[at];
        Vec<T> loss{}, entropy{};
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const int64_t to = column + v * L, offset = ((r + k) * V + v) * L;
          // rounded as where the largest was found: the difference from it is 0 there
          const Vec<T> logit = rounded<T>(load(x.students + offset) * x.student_scale);
          const Vec<T> target = rounded<T>(load(x.teachers + offset) * x.teacher_scale);
          const Vec<T> above = top - logit, below = load(s.w.row_shift + to) - logit;
          const Vec<T> high = target_top - target, low = load(t.w.row_shift + to) - target;
          const Vec<T> q = exp2<T>(high * -kScale), other_q = exp2<T>(low * -kScale);
          loss += q * above, entropy += q * high;
          column_loss[v] += other_q * below, column_entropy[v] += other_q * low;
          if constexpr (kGrad)
            e[k][v] = (exp2<T>(above * -kScale) * of_student - q * of_teacher) +
                      (exp2<T>(below * -kScale) * load(s.w.row_weight + to) - other_q * load(t.w.row_weight + to));
        }
        sums[i + r + k] += loss, sums[kLd + i + r + k] += entropy;
      }
      if constexpr (kGrad) Side::put(tile, i + r, j, e);
    }
  }
};

}  // namespace
}  // namespace sslspec::cpu

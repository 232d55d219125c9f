// Soft cross-entropy of rows with a target row each, its gradient, and softmax-weighted sums, in one visit.
//
// One panel of rows after the other, with the logits of its students and, below them, of its teachers; the threads
// share out each of the steps:
//   1. the logits of a column block, maximum and sum of exponentials of its rows;
//   2. the statistics of the rows (and, with a tilt, its mean in every row);
//   3. weights in place of the logits; grad += W^T left and sums += W right while they are in the L2 cache.
// Columns are packed block by block where they are used, which also scales them to unit length where that is asked for:
// nothing of their size is copied. Memory: one panel, of at most kBudget bytes if 8 rows need no more, sums of a fixed
// number of strips of columns, and factors of columns.
//
// Precision policy: products and sums over a block in T, sums over blocks, statistics and losses of rows in fp64; the
// order of all sums is given by the shapes alone. A target counts as q (lse - s), which is not negative: nothing
// cancels.
#include "pairwise/cpu/soft.h"

#include "pairwise/cpu/panels.h"
#include "simd/row_math.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct Soft {
  static constexpr int L = kLanes<T>, R = Tile<T>::kRows, V = Tile<T>::kVecs, kLd = Tile<T>::kLd;
  static constexpr int64_t kCols = Tile<T>::kCols, kMostRows = 192, kStrips = 32;
  static constexpr int64_t kBudget = int64_t(59) << 20;  // with the sums of the strips below 64 MiB at 256 columns
  static constexpr T kScale = static_cast<T>(kLog2e);
  // in place of the logits that are left out: finite, so that 0 times it is 0
  static constexpr T kFloor = static_cast<T>(sizeof(T) == 4 ? -1e37 : -1e300);

  // A matrix with a row for each column of the logits, and the factors of those rows.
  struct Columns {
    const T* x;
    int64_t ld, d;
    T* factor;
  };

  const PairwiseSoftArgs<T>& p;
  const RowLength<T> length = RowLength<T>::unit();
  Blocks cols;
  int64_t strips;
  bool paired;
  int64_t most, both;  // rows of a panel, and with its teachers, whole register tiles
  T *tiles, *top, *sum, *shift, *part;
  T *student_rows, *teacher_rows, *left_columns;
  Columns student, teacher, right;
  int64_t size = 0;

  explicit Soft(const PairwiseSoftArgs<T>& args)
      : p(args), cols(args.k), strips(min64(kStrips, cols.count)), paired(args.teacher.d > 0) {
    const int64_t row = max64(1, cols.count * kLd * int64_t(sizeof(T)));
    most = kBudget / row / (paired ? 2 : 1) / R * R;
    most = min64(max64(most, R), kMostRows);
    most = min64(most, round_up(p.n, R));
    both = paired ? 2 * most : most;
    auto take = [&](int64_t count) {
      T* at = p.workspace == nullptr ? nullptr : p.workspace + size;
      size += round_up(count, 64);
      return at;
    };
    tiles = take(cols.count * both * kLd + Wide<T>::kRows * kLd);  // read in whole register tiles
    top = take(cols.count * both);
    sum = take(cols.count * both);
    shift = take(2 * both);
    student_rows = take(round_up(most, kCols) * p.student.d);
    teacher_rows = take(paired ? round_up(most, kCols) * p.teacher.d : 0);
    left_columns = take(most * round_up(p.e, Wide<T>::kCols));
    part = take(strips * most * p.e);
    student = {p.student.c, p.student.ldc, p.student.d, take(p.k)};
    teacher = {p.teacher.c, p.teacher.ldc, p.teacher.d, take(paired ? p.k : 0)};
    right = {p.right, p.ldr, p.e, take(p.k)};
  }

  T* tile(int64_t bj) const { return tiles + bj * both * kLd; }

  // The factors of a block of columns; the first panel makes them.
  RowScale<T> factors(const Columns& c, int64_t i0, int64_t j0, int64_t nj) const {
    if (!p.unit) return {};
    for (int64_t j = j0; i0 == 0 && j < j0 + nj; ++j)
      c.factor[j] = static_cast<T>(length.factor(row_norm(c.x + j * c.ld, c.d)));
    return {c.factor + j0, 1};
  }

  // Logits of `ni` packed rows, the first being row i0 of all, and their statistics by block.
  void logits(const Columns& c, const T* bias, const T* rows, int64_t i0, int64_t ni, int64_t bj, int64_t first) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj), padded = round_up(nj, kCols);
    T* columns = static_cast<T*>(scratch(0, sizeof(T) * padded * c.d));
    pack_rows<T>(c.x + j0 * c.ld, c.ld, 0, nj, c.d, factors(c, i0, j0, nj), columns);
    T* offset = static_cast<T*>(scratch(1, sizeof(T) * kLd));
    for (int64_t j = 0; j < padded; ++j) offset[j] = j >= nj ? kFloor : bias == nullptr ? T(0) : bias[j0 + j];
    T* s = tile(bj) + first * kLd;
    block_product<T>(c.d, rows, columns, {0, ni, 0, nj}, s, kLd,
                     [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
#pragma GCC unroll 8
                       for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                         for (int v = 0; v < V; ++v)
                           store(s + (i + r) * kLd + j + v * L, acc[r][v] + load(offset + j + v * L));
                     });
    for (int64_t i = 0; i < ni; ++i) {
      T* row = s + i * kLd;
      if (p.skip_self && i0 + i >= j0 && i0 + i < j0 + nj) row[i0 + i - j0] = kFloor;
      Vec<T> high = load(row), total{};
      for (int64_t j = L; j < nj; j += L) high = vmax<T>(load(row + j), high);
      const T most_of_row = hmax<T>(high), base = most_of_row <= kFloor ? T(0) : most_of_row;
      for (int64_t j = 0; j < nj; j += L) total += exp2<T>((load(row + j) - base) * kScale);
      top[bj * both + first + i] = most_of_row, sum[bj * both + first + i] = hsum<T>(total);
    }
  }

  // log-sum-exp of row i of the panel; -inf where every column is left out
  double statistic(int64_t i) const {
    double high = -HUGE_VAL, total = 0;
    for (int64_t b = 0; b < cols.count; ++b)
      if (!(double(top[b * both + i]) <= high)) high = double(top[b * both + i]);  // keeps NaN
    for (int64_t b = 0; b < cols.count; ++b)
      if (sum[b * both + i] != 0) total += double(sum[b * both + i]) * std::exp(double(top[b * both + i]) - high);
    return total == 0 ? -HUGE_VAL : high + std::log(total);
  }

  // sum over blocks of what they left in `each`
  double over_blocks(const T* each, int64_t i) const {
    double total = 0;
    for (int64_t b = 0; b < cols.count; ++b) total += double(each[b * both + i]);
    return total;
  }

  // The mean of the tilt in the rows of a block, into `top`.
  void tilted(int64_t ni, int64_t bj) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
    const T* f = padded(p.tilt, j0, nj);
    for (int64_t i = 0; i < ni; ++i) {
      const T* row = tile(bj) + i * kLd;
      Vec<T> mean{};
      for (int64_t j = 0; j < nj; j += L) mean += exp2<T>((load(row + j) - shift[i]) * kScale) * load(f + j);
      top[bj * both + i] = hsum<T>(mean);
    }
  }

  static T* padded(const T* x, int64_t j0, int64_t nj) {
    T* out = static_cast<T*>(scratch(1, sizeof(T) * kLd));
    for (int64_t j = 0; j < round_up(nj, L); ++j) out[j] = j < nj ? x[j0 + j] : T(0);
    return out;
  }

  // Targets, then weights, of the rows of a block in place of their logits; losses and entropies into `sum`.
  void weights(int64_t i0, int64_t ni, int64_t bj) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
    T *s = tile(bj), *losses = sum + bj * both;
    const T* f = p.tilt == nullptr ? nullptr : padded(p.tilt, j0, nj);
    Vec<T>* column = static_cast<Vec<T>*>(scratch(2, sizeof(T) * kLd));
    for (int64_t j = 0; j < nj; j += L) column[j / L] = Vec<T>{};
    for (int64_t i = 0; i < ni; ++i) {
      T *row = s + i * kLd, *target = row + most * kLd;
      const T lse = shift[i], g = p.weight[i0 + i];
      Vec<T> loss{}, entropy{};
      if (paired) {
        const T other = shift[most + i];
        for (int64_t j = 0; j < nj; j += L) {
          const Vec<T> above = lse - load(row + j), t = other - load(target + j);
          const Vec<T> q = exp2<T>(t * -kScale), prob = exp2<T>(above * -kScale);
          loss += q * above, entropy += q * t, column[j / L] += g * prob;
          store(row + j, g * (prob - q));
        }
        losses[i] = hsum<T>(loss), losses[most + i] = hsum<T>(entropy);
      } else {
        const T mean = f == nullptr ? T(0) : shift[both + i];
        for (int64_t j = 0; j < nj; j += L) {
          const Vec<T> above = lse - load(row + j), prob = exp2<T>(above * -kScale), w = g * prob;
          entropy += prob * above, column[j / L] += w;
          store(row + j, f == nullptr ? w : w * (load(f + j) - mean));
        }
        losses[i] = hsum<T>(entropy);
      }
    }
    if (p.column_sum == nullptr) return;
    const T* of_block = reinterpret_cast<const T*>(column);
    for (int64_t j = 0; j < nj; ++j) p.column_sum[j0 + j] += of_block[j];
  }

  void products(int64_t i0, int64_t ni, int64_t bj, T* sums) const {
    const int64_t j0 = cols.begin(bj), nj = cols.size(bj);
    if (p.grad != nullptr) {
      if (i0 == 0) begin_gradient(bj);
      block_accumulate<true, T>(tile(bj), kLd, nj, ni, {left_columns, ni, 0}, p.grad + j0 * p.e, p.e, p.e);
      if (i0 + ni == p.n) end_gradient(bj);
    }
    if (p.sums == nullptr) return;
    T* packed = static_cast<T*>(scratch(0, sizeof(T) * nj * round_up(p.e, Wide<T>::kCols)));
    pack_columns<T>(right.x + j0 * right.ld, right.ld, 0, nj, nj, p.e, factors(right, i0, j0, nj), packed);
    block_accumulate<false, T>(tile(bj), kLd, ni, nj, {packed, nj, 0}, sums, p.e, p.e);
  }

  void begin_gradient(int64_t bj) const {
    if (p.first) zero(p.grad + cols.begin(bj) * p.e, cols.size(bj) * p.e);
  }
  // From the gradient of columns of unit length to that of those that were given.
  void end_gradient(int64_t bj) const {
    if (!p.unit || !p.last) return;
    for (int64_t j = cols.begin(bj); j < cols.begin(bj) + cols.size(bj); ++j) {
      const T* z = right.x + j * right.ld;
      const double norm = row_norm(z, p.e);
      const T factor = static_cast<T>(length.factor(norm));
      T* g = p.grad + j * p.e;
      length.backward(norm, z, factor * row_dot(g, z, p.e, T(1), factor), T(1), p.e, g);
    }
  }

  void pack(int64_t i0, int64_t ni) const {
    parallel_for(3, p.threads, [&](int64_t t) {
      if (t == 0) pack_rows<T>(p.student.x + i0 * p.student.ldx, p.student.ldx, 0, ni, p.student.d, {}, student_rows);
      if (t == 1 && paired)
        pack_rows<T>(p.teacher.x + i0 * p.teacher.ldx, p.teacher.ldx, 0, ni, p.teacher.d, {}, teacher_rows);
      if (t == 2 && p.grad != nullptr) pack_columns<T>(p.left + i0 * p.ldl, p.ldl, 0, ni, ni, p.e, {}, left_columns);
    });
  }

  void panel(int64_t i0, int64_t ni) const {
    pack(i0, ni);
    parallel_for(cols.count, p.threads, [&](int64_t bj) {
      logits(student, p.student.bias, student_rows, i0, ni, bj, 0);
      if (paired) logits(teacher, p.teacher.bias, teacher_rows, i0, ni, bj, most);
    });
    for_rows_of(ni, [&](int64_t i) {
      for (int64_t at = i; at < both; at += most) {
        const double lse = statistic(at);
        shift[at] = lse == -HUGE_VAL ? T(0) : static_cast<T>(lse);
        if (!paired) p.rows[i0 + i] = static_cast<T>(lse);
      }
    });
    if (p.tilt != nullptr) {
      parallel_for(cols.count, p.threads, [&](int64_t bj) { tilted(ni, bj); });
      for_rows_of(ni, [&](int64_t i) { shift[both + i] = static_cast<T>(over_blocks(top, i)); });
    }
    if (!paired && p.entropy == nullptr && p.column_sum == nullptr && p.sums == nullptr && p.grad == nullptr) return;
    const int64_t sums = most * p.e;
    parallel_for(strips, p.threads, [&](int64_t t) {
      const FlushSubnormals flush;
      if (p.sums != nullptr) zero(part + t * sums, sums);
      for (int64_t bj = cols.count * t / strips; bj < cols.count * (t + 1) / strips; ++bj) {
        weights(i0, ni, bj);
        products(i0, ni, bj, part + t * sums);
      }
    });
    for_rows_of(ni, [&](int64_t i) {
      if (paired) p.rows[i0 + i] = static_cast<T>(double(p.weight[i0 + i]) * over_blocks(sum, i));
      if (p.entropy != nullptr) p.entropy[i0 + i] = static_cast<T>(over_blocks(sum, paired ? most + i : i));
      for (int64_t c = 0; p.sums != nullptr && c < p.e; ++c) {
        T total = 0;
        for (int64_t t = 0; t < strips; ++t) total += part[t * sums + i * p.e + c];
        p.sums[(i0 + i) * p.e + c] = total;
      }
    });
  }

  template <typename F>
  void for_rows_of(int64_t ni, const F& f) const {
    constexpr int64_t kTask = 16;
    parallel_for((ni + kTask - 1) / kTask, p.threads, [&](int64_t t) {
      for (int64_t i = t * kTask; i < min64(ni, (t + 1) * kTask); ++i) f(i);
    });
  }

  void run() const {
    if (p.column_sum != nullptr) zero(p.column_sum, p.k);
    for (int64_t bj = 0; p.n == 0 && p.grad != nullptr && bj < cols.count; ++bj) begin_gradient(bj), end_gradient(bj);
    for (int64_t i0 = 0; i0 < p.n; i0 += most) panel(i0, min64(most, p.n - i0));
  }
};

}  // namespace

template <typename T>
int64_t pairwise_soft_workspace(int64_t n, int64_t k, int64_t d, int64_t teacher_d, int64_t e) {
  PairwiseSoftArgs<T> args{};
  args.n = n, args.k = k, args.e = e, args.student.d = d, args.teacher.d = teacher_d;
  return Soft<T>(args).size;
}
template <typename T>
void pairwise_soft(const PairwiseSoftArgs<T>& args) {
  Soft<T>(args).run();
}

template int64_t pairwise_soft_workspace<float>(int64_t, int64_t, int64_t, int64_t, int64_t);
template int64_t pairwise_soft_workspace<double>(int64_t, int64_t, int64_t, int64_t, int64_t);
template void pairwise_soft<float>(const PairwiseSoftArgs<float>&);
template void pairwise_soft<double>(const PairwiseSoftArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// Column means and centred mean squares or products in one pass over memory. Eight rows at a time are reduced exactly
// (mean, then squares about it) in registers and merged by Chan's update into the result of up to 128 rows, those into
// the result of up to 1024, and those, in order, into the whole: no running sum is long enough to gather rounding
// errors.
//
// Precision policy: up to 1024 rows in T, less the first row, about local means: nothing cancels however large the mean
// is beside the spread, or one operand beside the other. Sums of squares and products are kept over kMomentsRows, a
// power of two: no bit is lost, and they overflow only where the variance does. The last merge is in fp64. The order of
// all sums is given by the shape alone.
#include "rows/cpu/moments.h"

#include "simd/bfloat16.h"
#include "simd/parallel.h"
#include "simd/vec.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

constexpr int64_t kGroup = 256;  // columns of one task: their running results stay in the L1 cache
constexpr int kRows = 8;
constexpr int64_t kMerged = 128;  // rows of the first level of merges
constexpr int kAhead = 64;        // columns fetched ahead: eight streams lie a whole row apart

// How to merge the next `more` rows into a result of `seen` rows: Chan's update with its two factors.
template <typename T>
struct Merge {
  T part, weight;
  Merge(int64_t seen, int64_t more)
      : part(static_cast<T>(double(more) / double(seen + more))),
        weight(static_cast<T>(double(seen) * part) / T(kMomentsRows)) {}

  // The mean, and how far it was off.
  template <typename V>
  inline __attribute__((always_inline)) V operator()(V& mean, V mean_b) const {
    const V delta = mean_b - mean;
    mean += delta * part;
    return delta;
  }
  // The sum of products of two columns (or of squares of one) whose means were off by these.
  template <typename V>
  inline __attribute__((always_inline)) void operator()(V& sum, V sum_b, V delta_x, V delta_y) const {
    sum += sum_b + delta_x * delta_y * weight;
  }
};

template <typename T, typename Value>
struct Moments {
  static constexpr int L = kLanes<T>;
  using Rows = Vec<T>[kRows];
  const MomentsArgs<T, Value>& p;
  int statistics;

  // One register of kRows rows less the first row of all, of which `rows` exist; columns past the end are zero.
  inline __attribute__((always_inline)) void read(int o, int64_t i, int64_t k, int rows, int64_t cols, Rows& v) const {
    const int64_t ld = p.ld[o];
    const Value *shift = p.x[o] + k, *x = shift + i * ld;
    if (rows == kRows && cols >= L) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        v[r] = load_wide(x + r * ld) - load_wide(shift);
        __builtin_prefetch(x + r * ld + kAhead);
      }
      return;
    }
    for (int r = 0; r < kRows; ++r) {
      T lanes[L] = {};
      for (int64_t l = 0; r < rows && l < (cols < L ? cols : L); ++l)
        lanes[l] = widened(x[r * ld + l]) - widened(shift[l]);
      v[r] = load(lanes);
    }
  }

  static inline __attribute__((always_inline)) Vec<T> mean_of(const Rows& v, int rows) {
    const Vec<T> sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    return rows == kRows ? sum * T(0.125) : sum / T(rows);
  }

  // sum_r (v_r - v_mean) (w_r - w_mean) / kMomentsRows
  static inline __attribute__((always_inline)) Vec<T> product_of(const Rows& v, Vec<T> v_mean, const Rows& w,
                                                                 Vec<T> w_mean, int rows) {
    Vec<T> sum{};
    if (rows == kRows) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum += (v[r] - v_mean) * (w[r] - w_mean);
    } else {
      for (int r = 0; r < rows; ++r) sum += (v[r] - v_mean) * (w[r] - w_mean);
    }
    return sum * (T(1) / T(kMomentsRows));
  }

  struct Running {
    T mean[3][kGroup] = {}, sum[3][kGroup] = {};
  };

  // Rows of one operand into its statistics at k; returns their mean, and how far the one before was off in `delta`.
  static inline __attribute__((always_inline)) Vec<T> add(const Rows& v, int rows, const Merge<T>& merge, T* mean,
                                                          T* sum, Vec<T>& delta) {
    const Vec<T> local = mean_of(v, rows), square = product_of(v, local, v, local, rows);
    Vec<T> a = load(mean), b = load(sum);
    delta = merge(a, local);
    merge(b, square, delta, delta);
    store(mean, a);
    store(sum, b);
    return local;
  }

  // Rows [r0, r1) of columns [c0, c1), eight at a time.
  void gather(int64_t r0, int64_t r1, int64_t c0, int64_t c1, Running& to) const {
    for (int64_t i = r0; i < r1; i += kRows) {
      const int rows = static_cast<int>(r1 - i < kRows ? r1 - i : kRows);
      const Merge<T> merge(i - r0, rows);
      for (int64_t k = c0; k < c1; k += L) {
        Rows x, y;
        Vec<T> delta_x, delta_y;
        read(0, i, k, rows, c1 - k, x);
        const Vec<T> x_mean = add(x, rows, merge, to.mean[0] + k - c0, to.sum[0] + k - c0, delta_x);
        if (statistics == 1) continue;
        read(1, i, k, rows, c1 - k, y);
        const Vec<T> y_mean = add(y, rows, merge, to.mean[1] + k - c0, to.sum[1] + k - c0, delta_y);
        if (p.product) {
          Vec<T> covariance = load(to.sum[2] + k - c0);
          merge(covariance, product_of(x, x_mean, y, y_mean, rows), delta_x, delta_y);
          store(to.sum[2] + k - c0, covariance);
          continue;
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) x[r] -= y[r];
        add(x, rows, merge, to.mean[2] + k - c0, to.sum[2] + k - c0, delta_x);
      }
    }
  }

  // The statistics of more rows merged into those of one column, or of a register of them.
  template <typename S, typename V>
  inline __attribute__((always_inline)) void merge_all(const Merge<S>& merge, V (&mean)[3], V (&sum)[3],
                                                       const V (&mean_b)[3], const V (&sum_b)[3]) const {
    V delta[3] = {};
    for (int s = 0; s < statistics; ++s) {
      delta[s] = merge(mean[s], mean_b[s]);
      const bool pair = s == 2 && p.product;
      merge(sum[s], sum_b[s], delta[pair ? 0 : s], delta[pair ? 1 : s]);
    }
  }

  // Rows [r0, r1) and columns [c0, c1) into mean and sum (row stride d).
  void chunk(int64_t r0, int64_t r1, int64_t c0, int64_t c1, T* mean_out, T* sum_out) const {
    Running all;
    for (int64_t i = r0; i < r1; i += kMerged) {
      Running part;
      const int64_t end = i + kMerged < r1 ? i + kMerged : r1;
      gather(i, end, c0, c1, part);
      const Merge<T> merge(i - r0, end - i);
      for (int64_t k = 0; k < c1 - c0; k += L) {
        Vec<T> mean[3], sum[3], mean_b[3], sum_b[3];
        for (int s = 0; s < statistics; ++s) {
          mean[s] = load(all.mean[s] + k), sum[s] = load(all.sum[s] + k);
          mean_b[s] = load(part.mean[s] + k), sum_b[s] = load(part.sum[s] + k);
        }
        merge_all(merge, mean, sum, mean_b, sum_b);
        for (int s = 0; s < statistics; ++s) store(all.mean[s] + k, mean[s]), store(all.sum[s] + k, sum[s]);
      }
    }
    for (int s = 0; s < statistics; ++s)
      for (int64_t k = c0; k < c1; ++k) {
        mean_out[s * p.d + k] = all.mean[s][k - c0];
        sum_out[s * p.d + k] = all.sum[s][k - c0];
      }
  }

  void run() const {
    const int64_t groups = (p.d + kGroup - 1) / kGroup, chunks = (p.n + kMomentsRows - 1) / kMomentsRows;
    const int64_t size = statistics * p.d;
    parallel_for(groups * chunks, p.threads, [&](int64_t t) {
      const int64_t c = t / groups, c0 = t % groups * kGroup, r0 = c * kMomentsRows;
      const int64_t c1 = c0 + kGroup < p.d ? c0 + kGroup : p.d, r1 = r0 + kMomentsRows < p.n ? r0 + kMomentsRows : p.n;
      T* mean = chunks == 1 ? p.mean : p.workspace + 2 * c * size;
      T* sum = chunks == 1 ? p.var : mean + size;
      chunk(r0, r1, c0, c1, mean, sum);
    });
    for (int64_t k = 0; k < p.d; ++k) {
      double mean[3] = {}, sum[3] = {};
      for (int64_t c = 0; c < chunks; ++c) {
        const T* means = (chunks == 1 ? p.mean : p.workspace + 2 * c * size) + k;
        const T* sums = chunks == 1 ? p.var + k : means + size;
        double mean_b[3] = {}, sum_b[3] = {};
        for (int s = 0; s < statistics; ++s) mean_b[s] = means[s * p.d], sum_b[s] = sums[s * p.d];
        const int64_t seen = c * kMomentsRows, more = p.n - seen < kMomentsRows ? p.n - seen : kMomentsRows;
        merge_all(Merge<double>(seen, more), mean, sum, mean_b, sum_b);
      }
      for (int s = 0; s < statistics; ++s) {
        p.mean[s * p.d + k] = static_cast<T>(mean[s]);
        p.var[s * p.d + k] = static_cast<T>(sum[s] * double(kMomentsRows) / double(p.n));
      }
      const T first = widened(p.x[0][k]);
      p.mean[k] += first;
      if (statistics == 1) continue;
      const T second = widened(p.x[1][k]);
      p.mean[p.d + k] += second;
      p.mean[2 * p.d + k] += p.product ? T(0) : first - second;
    }
  }
};

}  // namespace

template <typename T, typename Value>
void moments_forward(const MomentsArgs<T, Value>& args) {
  Moments<T, Value>{args, args.operands == 2 ? 3 : 1}.run();
}

template <typename T>
void moments_backward(const MomentsBackwardArgs<T>& args) {
  const MomentsBackwardArgs<T> p = args;
  const T once = T(1) / static_cast<T>(p.n), twice = T(2) / static_cast<T>(p.n);
  constexpr int64_t kTask = 32;  // rows
  parallel_for((p.n + kTask - 1) / kTask, p.threads, [&](int64_t t) {
    for (int64_t i = t * kTask; i < p.n && i < (t + 1) * kTask; ++i) {
      const T *in = p.x + i * p.ld, *mean = p.mean, *grad_mean = p.grad_mean, *grad_var = p.grad_var;
      T* __restrict out = p.grad + i * p.d;
      for (int64_t k = 0; k < p.d; ++k) out[k] = grad_mean[k] * once + grad_var[k] * twice * (in[k] - mean[k]);
    }
  });
}

template void moments_forward(const MomentsArgs<float>&);
template void moments_forward(const MomentsArgs<float, Bfloat16>&);
template void moments_forward(const MomentsArgs<double>&);
template void moments_backward<float>(const MomentsBackwardArgs<float>&);
template void moments_backward<double>(const MomentsBackwardArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// Column means and centred sums of squares in one pass over memory. Eight rows at a time are reduced exactly (mean,
// then squares about it) in registers and merged by Chan's update into the result of up to 128 rows, those into the
// result of up to 1024, and those, in order, into the whole: no running sum is long enough to gather rounding errors.
//
// Precision policy: up to 1024 rows in T, less the first row, about local means: nothing cancels however large the mean
// is beside the spread. The last merge is in fp64. The order of all sums is given by the shape alone.
#include "rows/cpu/moments.h"

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
      : part(static_cast<T>(double(more) / double(seen + more))), weight(static_cast<T>(double(seen) * part)) {}

  template <typename V>
  inline __attribute__((always_inline)) void operator()(V& mean, V& m2, V mean_b, V m2_b) const {
    const V delta = mean_b - mean;
    mean += delta * part;
    m2 += m2_b + delta * delta * weight;
  }
};

template <typename T>
struct Moments {
  static constexpr int L = kLanes<T>;
  using Rows = Vec<T>[kRows];
  const MomentsArgs<T>& p;
  int statistics;

  // One register of kRows rows less the first row of all, of which `rows` exist; columns past the end are zero.
  inline __attribute__((always_inline)) void read(int o, int64_t i, int64_t k, int rows, int64_t cols, Rows& v) const {
    const int64_t ld = p.ld[o];
    const T *shift = p.x[o] + k, *x = shift + i * ld;
    if (rows == kRows && cols >= L) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        v[r] = load(x + r * ld) - load(shift);
        __builtin_prefetch(x + r * ld + kAhead);
      }
      return;
    }
    for (int r = 0; r < kRows; ++r) {
      T lanes[L] = {};
      for (int64_t l = 0; r < rows && l < (cols < L ? cols : L); ++l) lanes[l] = x[r * ld + l] - shift[l];
      v[r] = load(lanes);
    }
  }

  static inline __attribute__((always_inline)) void add(const Rows& v, int rows, const Merge<T>& merge, T* mean,
                                                        T* m2) {
    const Vec<T> sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    const Vec<T> local = rows == kRows ? sum * T(0.125) : sum / T(rows);
    Vec<T> square{};
    if (rows == kRows) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) square += (v[r] - local) * (v[r] - local);
    } else {
      for (int r = 0; r < rows; ++r) square += (v[r] - local) * (v[r] - local);
    }
    Vec<T> a = load(mean), b = load(m2);
    merge(a, b, local, square);
    store(mean, a);
    store(m2, b);
  }

  struct Running {
    T mean[3][kGroup] = {}, m2[3][kGroup] = {};
  };

  // Rows [r0, r1) of columns [c0, c1), eight at a time.
  void gather(int64_t r0, int64_t r1, int64_t c0, int64_t c1, Running& to) const {
    for (int64_t i = r0; i < r1; i += kRows) {
      const int rows = static_cast<int>(r1 - i < kRows ? r1 - i : kRows);
      const Merge<T> merge(i - r0, rows);
      for (int64_t k = c0; k < c1; k += L) {
        Rows x, y;
        read(0, i, k, rows, c1 - k, x);
        add(x, rows, merge, to.mean[0] + k - c0, to.m2[0] + k - c0);
        if (statistics == 1) continue;
        read(1, i, k, rows, c1 - k, y);
        add(y, rows, merge, to.mean[1] + k - c0, to.m2[1] + k - c0);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) x[r] -= y[r];
        add(x, rows, merge, to.mean[2] + k - c0, to.m2[2] + k - c0);
      }
    }
  }

  // Rows [r0, r1) and columns [c0, c1) into mean and m2 (row stride d).
  void chunk(int64_t r0, int64_t r1, int64_t c0, int64_t c1, T* mean_out, T* m2_out) const {
    Running all;
    for (int64_t i = r0; i < r1; i += kMerged) {
      Running part;
      const int64_t end = i + kMerged < r1 ? i + kMerged : r1;
      gather(i, end, c0, c1, part);
      const Merge<T> merge(i - r0, end - i);
      for (int s = 0; s < statistics; ++s)
        for (int64_t k = 0; k < c1 - c0; ++k) merge(all.mean[s][k], all.m2[s][k], part.mean[s][k], part.m2[s][k]);
    }
    for (int s = 0; s < statistics; ++s)
      for (int64_t k = c0; k < c1; ++k) {
        mean_out[s * p.d + k] = all.mean[s][k - c0];
        m2_out[s * p.d + k] = all.m2[s][k - c0];
      }
  }

  void run() const {
    const int64_t groups = (p.d + kGroup - 1) / kGroup, chunks = (p.n + kMomentsRows - 1) / kMomentsRows;
    const int64_t size = statistics * p.d;
    parallel_for(groups * chunks, p.threads, [&](int64_t t) {
      const int64_t c = t / groups, c0 = t % groups * kGroup, r0 = c * kMomentsRows;
      const int64_t c1 = c0 + kGroup < p.d ? c0 + kGroup : p.d, r1 = r0 + kMomentsRows < p.n ? r0 + kMomentsRows : p.n;
      T* mean = chunks == 1 ? p.mean : p.workspace + 2 * c * size;
      T* m2 = chunks == 1 ? p.m2 : mean + size;
      chunk(r0, r1, c0, c1, mean, m2);
    });
    for (int64_t k = 0; k < size; ++k) {
      if (chunks > 1) {
        double mean = p.workspace[k], m2 = p.workspace[size + k];
        for (int64_t c = 1; c < chunks; ++c) {
          const T* next = p.workspace + 2 * c * size + k;
          const int64_t seen = c * kMomentsRows, more = p.n - seen < kMomentsRows ? p.n - seen : kMomentsRows;
          Merge<double>(seen, more)(mean, m2, double(next[0]), double(next[size]));
        }
        p.mean[k] = static_cast<T>(mean);
        p.m2[k] = static_cast<T>(m2);
      }
      const int64_t s = k / p.d, column = k % p.d;
      p.mean[k] += s < 2 ? p.x[s][column] : p.x[0][column] - p.x[1][column];
    }
  }
};

}  // namespace

template <typename T>
void moments_forward(const MomentsArgs<T>& args) {
  Moments<T>{args, args.operands == 2 ? 3 : 1}.run();
}

template <typename T>
void moments_backward(const T* x, int64_t ld, int64_t n, int64_t d, const T* mean, const T* grad_mean,
                      const T* grad_var, T* grad, int threads) {
  const T once = T(1) / static_cast<T>(n), twice = T(2) / static_cast<T>(n);
  constexpr int64_t kTask = 32;  // rows
  parallel_for((n + kTask - 1) / kTask, threads, [&](int64_t t) {
    for (int64_t i = t * kTask; i < n && i < (t + 1) * kTask; ++i) {
      const T* in = x + i * ld;
      T* __restrict out = grad + i * d;
      for (int64_t k = 0; k < d; ++k) out[k] = grad_mean[k] * once + grad_var[k] * twice * (in[k] - mean[k]);
    }
  });
}

template void moments_forward<float>(const MomentsArgs<float>&);
template void moments_forward<double>(const MomentsArgs<double>&);
template void moments_backward<float>(const float*, int64_t, int64_t, int64_t, const float*, const float*, const float*,
                                      float*, int);
template void moments_backward<double>(const double*, int64_t, int64_t, int64_t, const double*, const double*,
                                       const double*, double*, int);

}  // namespace sslspec::cpu::SSLSPEC_ISA

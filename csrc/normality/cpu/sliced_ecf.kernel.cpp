// Characteristic functions along directions, and the gradient of their distance from a given one.
//
// The points are equally spaced, t_k p = k theta, so one sine and one cosine of theta / 2 serve all of them (Reinsch's
// form of Chebyshev's recurrence, which keeps its digits at small angles):
//   D_k = D_{k-1} - 4 sin^2(theta / 2) cos(k theta),   cos((k + 1) theta) = cos(k theta) + D_k,   the same for sines.
// Directions are taken in chunks whose projections fit in kBudget numbers. For each chunk:
//   1. by panel of directions and view: projections, sums over the rows, the distance, and in place of the projections
//      its gradient;
//   2. by block of rows: the product of that gradient with the directions, onto grad.
//
// Precision policy: products and angles in T; sums of kSumRows rows in T, everything beyond in fp64.
#include "normality/cpu/sliced_ecf.h"

#include "simd/scratch.h"
#include "simd/tile.h"
#include "normality/cpu/sincos.h"
#include "normality/cpu/views.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

constexpr int64_t kBudget = int64_t(1) << 21;
constexpr int64_t kSumRows = 64;

// cos(k theta) and sin(k theta) of several rows, k = 1 first.
template <typename T, int R>
struct Angles {
  Vec<T> cosine[R], sine[R], dc[R], ds[R], minus4[R];

  // half[r * ld]: theta / 2; rows from `count` on stay zero
  inline __attribute__((always_inline)) void start(const T* half, int64_t ld, int64_t count) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      Vec<T> s{}, c{};
      if (r < count) sincos<T>(load(half + r * ld), s, c);
      const Vec<T> twice = T(2) * s * s;
      dc[r] = -twice, ds[r] = T(2) * s * c, minus4[r] = T(-2) * twice;
      cosine[r] = r < count ? T(1) - twice : Vec<T>{}, sine[r] = ds[r];
    }
  }
  inline __attribute__((always_inline)) void advance() {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      dc[r] += minus4[r] * cosine[r], ds[r] += minus4[r] * sine[r];
      cosine[r] += dc[r], sine[r] += ds[r];
    }
  }
};

template <typename T>
struct SlicedEcf {
  static constexpr int L = kLanes<T>, V = Tile<T>::kVecs, R = Tile<T>::kRows;
  static constexpr int64_t kCols = Tile<T>::kCols, kBlock = Tile<T>::kBlock;
#if defined(__AVX512F__)
  static constexpr int kTogether = 4;  // rows whose angles are in registers
#else
  static constexpr int kTogether = 2;
#endif

  const SlicedEcfArgs<T>& p;
  int64_t n_pad, panels, chunk;  // panels of all directions and of one chunk
  int64_t ld;                    // of the projections of one chunk
  T *rows, *by_panel, *by_column, *projections;
  double* panel_value;  // [views][panels]
  int64_t size = 0;

  SlicedEcf(const SlicedEcfArgs<T>& args) : p(args) {
    const auto take = [&](int64_t count) {
      T* at = p.workspace == nullptr ? nullptr : p.workspace + size;
      size += round_up(count, 64);
      return at;
    };
    n_pad = round_up(p.n, kCols), panels = round_up(p.count, kCols) / kCols;
    chunk = min64(panels, max64(1, kBudget / (p.views * n_pad * kCols)));
    ld = chunk * kCols + L;  // an odd number of cache lines, as in Tile
    rows = take(p.views * n_pad * p.d);
    by_panel = take(panels * kCols * p.d);
    by_column = take(round_up(p.d, Wide<T>::kCols) * p.count);
    projections = take((p.views * n_pad + Wide<T>::kRows) * ld);
    panel_value = reinterpret_cast<double*>(take(p.views * panels * int64_t(sizeof(double) / sizeof(T))));
  }

  void pack() const {
    const int64_t blocks = n_pad / kCols;
    parallel_for(p.views * blocks, p.threads, [&](int64_t t) {
      const int64_t view = t / blocks, r0 = t % blocks * kCols;
      pack_rows<T>(p.z + view * p.ldv, p.ldz, r0, min64(p.n, r0 + kCols), p.d, {}, rows + view * n_pad * p.d);
    });
    const T half = static_cast<T>(0.5 * p.step);
    parallel_for(panels, p.threads, [&](int64_t b) {
      const int64_t s0 = b * kCols, width = min64(kCols, p.count - s0);
      for (int64_t k = 0; k < p.d; ++k) {
        const T* in = p.directions + k * p.lda + s0;
        T* out = by_panel + s0 * p.d + k * kCols;
        for (int64_t s = 0; s < kCols; ++s) out[s] = s < width ? half * in[s] : T(0);
        // and as the right-hand side of the gradient, [panel of features][direction][feature]
        constexpr int64_t kWide = Wide<T>::kCols;
        T* column = by_column + k / kWide * kWide * p.count + k % kWide;
        for (int64_t s = 0; s < width; ++s) column[(s0 + s) * kWide] = in[s];
      }
      for (int64_t k = p.d; k < round_up(p.d, Wide<T>::kCols); ++k)
        for (int64_t s = 0; s < width; ++s)
          by_column[(k / Wide<T>::kCols * p.count + s0 + s) * Wide<T>::kCols + k % Wide<T>::kCols] = 0;
    });
  }

  // Projections of one view on one panel, times step / 2.
  void project(int64_t view, int64_t panel, T* out) const {
    for (int64_t i0 = 0; i0 < n_pad; i0 += kBlock) {
      T* at = out + i0 * ld;
      const Block block = {i0, min64(kBlock, n_pad - i0), panel * kCols, kCols};
      block_product<T>(p.d, rows + view * n_pad * p.d, by_panel, block, at, ld,
                       [&](int64_t i, int64_t j, const Vec<T>(&acc)[R][V]) __attribute__((always_inline)) {
#pragma GCC unroll 8
                         for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                           for (int v = 0; v < V; ++v) store(at + (i + r) * ld + j + v * L, acc[r][v]);
                       });
    }
  }

  // Sums over the rows of cos(k theta) and sin(k theta), k = 1 ... knots, of L directions into total[2][knots][L].
  void sums(const T* half, Vec<T>* part, double* total) const {
    for (int64_t k = 0; k < 2 * p.knots * L; ++k) total[k] = 0;
    for (int64_t i0 = 0; i0 < p.n; i0 += kSumRows) {
      for (int64_t k = 0; k < 2 * p.knots; ++k) part[k] = Vec<T>{};
      const int64_t end = min64(p.n, i0 + kSumRows);
      for (int64_t i = i0; i < end; i += kTogether) {
        Angles<T, kTogether> angles;
        angles.start(half + i * ld, ld, end - i);
        for (int64_t k = 0; k < p.knots; ++k) {
          Vec<T> c = angles.cosine[0], s = angles.sine[0];
#pragma GCC unroll 4
          for (int r = 1; r < kTogether; ++r) c += angles.cosine[r], s += angles.sine[r];
          part[k] += c, part[p.knots + k] += s;
          angles.advance();
        }
      }
      const T* values = reinterpret_cast<const T*>(part);
      for (int64_t k = 0; k < 2 * p.knots * L; ++k) total[k] += double(values[k]);
    }
  }

  // The distance of the `width` directions, summed; and in place of the sums the coefficients of cos and sin in the
  // gradient of the projections.
  double distance(const double* total, int64_t width, Vec<T>* coefficients) const {
    T* out = reinterpret_cast<T*>(coefficients);
    double value = 0;
    const double factor = 2 * p.factor / double(p.count);
    for (int64_t k = 0; k < p.knots; ++k)
      for (int64_t l = 0; l < L; ++l) {
        const double c = total[k * L + l] / double(p.n) - p.targets[k], s = total[(p.knots + k) * L + l] / double(p.n);
        if (l < width) value += p.weights[k] * (c * c + s * s);
        const double slope = factor * p.weights[k] * double(k + 1) * p.step;
        out[k * L + l] = static_cast<T>(slope * s), out[(p.knots + k) * L + l] = static_cast<T>(-slope * c);
      }
    return value;
  }

  void gradient(T* half, const Vec<T>* coefficients) const {
    for (int64_t i = 0; i < p.n; i += kTogether) {
      Angles<T, kTogether> angles;
      angles.start(half + i * ld, ld, p.n - i);
      Vec<T> g[kTogether];
#pragma GCC unroll 4
      for (int r = 0; r < kTogether; ++r) g[r] = Vec<T>{};
      for (int64_t k = 0; k < p.knots; ++k) {
        const Vec<T> a = coefficients[k], b = coefficients[p.knots + k];
#pragma GCC unroll 4
        for (int r = 0; r < kTogether; ++r) g[r] += a * angles.cosine[r] + b * angles.sine[r];
        angles.advance();
      }
      for (int r = 0; r < min64(kTogether, p.n - i); ++r) store(half + (i + r) * ld, g[r]);
    }
  }

  void panel(int64_t view, int64_t first, int64_t b) const {
    T* out = projections + view * n_pad * ld + (b - first) * kCols;
    project(view, b, out);
    Vec<T>* part = static_cast<Vec<T>*>(scratch(0, 2 * size_t(p.knots) * (sizeof(Vec<T>) + L * sizeof(double))));
    double* total = reinterpret_cast<double*>(part + 2 * p.knots);
    double value = 0;
    for (int64_t v = 0; v < V; ++v) {
      const int64_t width = min64(L, p.count - b * kCols - v * L);
      if (width <= 0) break;
      const int64_t at = view * 2 * p.knots * p.count + b * kCols + v * L;  // of its directions in [views, 2 knots, S]
      if (p.coefficients == nullptr) sums(out + v * L, part, total);
      if (p.sums != nullptr) {
        for (int64_t k = 0; k < 2 * p.knots; ++k)
          for (int64_t l = 0; l < width; ++l) p.sums[at + k * p.count + l] = total[k * L + l];
        continue;
      }
      if (p.coefficients != nullptr) {
        T* given = reinterpret_cast<T*>(part);
        for (int64_t k = 0; k < 2 * p.knots; ++k)
          for (int64_t l = 0; l < L; ++l)
            given[k * L + l] = l < width ? static_cast<T>(p.coefficients[at + k * p.count + l]) : T(0);
      } else {
        value += distance(total, width, part);
      }
      if (p.grad != nullptr) gradient(out + v * L, part);
    }
    panel_value[view * panels + b] = value;
  }

  void run() const {
    pack();
    const int64_t blocks = (p.n + kBlock - 1) / kBlock;
    for (int64_t first = 0; first < panels; first += chunk) {
      const int64_t count = min64(chunk, panels - first), s0 = first * kCols;
      parallel_for(p.views * count, p.threads, [&](int64_t t) { panel(t / count, first, first + t % count); });
      if (p.grad == nullptr) continue;
      parallel_for(p.views * blocks, p.threads, [&](int64_t t) {
        const int64_t view = t / blocks, r0 = t % blocks * kBlock, count_rows = min64(kBlock, p.n - r0);
        T* out = p.grad + (view * p.n + r0) * p.d;
        if (first == 0) __builtin_memset(out, 0, sizeof(T) * size_t(count_rows * p.d));
        block_accumulate<false, T>(projections + (view * n_pad + r0) * ld, ld, count_rows,
                                   min64(count * kCols, p.count - s0), {by_column, p.count, s0}, out, p.d, p.d);
      });
    }
    if (p.values == nullptr) return;
    for (int64_t view = 0; view < p.views; ++view) {
      double value = 0;
      for (int64_t b = 0; b < panels; ++b) value += panel_value[view * panels + b];
      p.values[view] = value * double(p.n) / double(p.count);
    }
  }
};

}  // namespace

template <typename T>
int64_t sliced_ecf_workspace(int64_t views, int64_t n, int64_t d, int64_t directions) {
  SlicedEcfArgs<T> args{};
  args.views = views, args.n = n, args.d = d, args.count = directions;
  return SlicedEcf<T>(args).size;
}
template <typename T>
void sliced_ecf(const SlicedEcfArgs<T>& args) {
  SlicedEcf<T>(args).run();
}

template int64_t sliced_ecf_workspace<float>(int64_t, int64_t, int64_t, int64_t);
template int64_t sliced_ecf_workspace<double>(int64_t, int64_t, int64_t, int64_t);
template void sliced_ecf<float>(const SlicedEcfArgs<float>&);
template void sliced_ecf<double>(const SlicedEcfArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

// The spectral contrastive loss of two views on the d x d side, with its gradient, from the rows as they come.
//
//   1. rows: norms, similarities of the pairs,
//   2. A = X^T X and B = Y^T Y: slices of the rows in parallel, a column panel per task, upper blocks only,
//   3. reduce: sums of the slices, <A, B> in fp64, B and A rewritten as whole column panels,
//   4. gradient: chunks of rows in parallel, X B and Y A with everything else done to the rows while they are in cache.
// Shortened rows exist in caches only. Memory traffic: the rows are read three times, the gradient is written once.
//
// Precision policy: norms in fp64, products over slices of fixed size, the two sums in fp64; the order of all sums is
// given by the shapes alone. Where products are of bfloat16 numbers, the shortened rows are rounded and, in step 4, A and
// B off their diagonals, which are most of them; products of these, similarities and what else the gradient holds take
// everything as it is. Included by *.kernel.cpp and *.bf16.cpp only.
#pragma once
#include <type_traits>

#include "fused/cpu/spectral_contrastive.h"

#include "simd/bfloat16.h"
#include "simd/memory.h"
#include "simd/row_math.h"
#include "simd/scratch.h"
#include "simd/steps.h"

namespace sslspec::cpu {
namespace {

// The products of the spectral contrastive loss in registers; those in tiles are in spectral_contrastive.bf16.cpp.
template <typename Number>
struct SpectralProducts {
  using Op = Number;
  using T = typename Op::T;
  using P = Wide<T>;
  static constexpr int64_t kChunk = P::kDepth;  // rows of one step; a multiple of P::kRows
  static constexpr int64_t kPanels = 1;         // column panels that share packed rows

  // out (row stride `width`) += X^T X for the rows [0, c + kCols) and columns [c, c + kCols) of d, of X in
  // [step][width]. There is a panel of memory behind X.
  static void square(T* x, int64_t width, int64_t steps, int64_t c, int64_t d, T* out) {
    T* const right = x + kChunk * width;
    const int64_t end = min64(d, c + P::kCols);
    for (int64_t k = 0; k < steps; ++k) {
      std::memcpy(right + k * P::kCols, x + k * width + c, sizeof(T) * static_cast<size_t>(end - c));
      for (int64_t l = end - c; l < P::kCols; ++l) right[k * P::kCols + l] = 0;
    }
    with_registers<P>(d - c, [&](auto count) __attribute__((always_inline)) {
      accumulate_panel<true, decltype(count)::value, Op>(x, width, end, steps, {right, right}, out, width, d - c);
    });
  }
  // out [rows x d] += X B for rows of X `width` apart and B in column panels of `steps`.
  static void times(const T* x, int64_t width, int64_t rows, const T* b, int64_t steps, T* out, int64_t d) {
    block_accumulate_by<false, Op>(x, width, rows, steps, {b, steps, 0}, out, d, d);
  }
};

// In: the products. Value: what the rows hold in memory.
template <typename In, typename Value = typename In::T>
struct Spectral {
  using Op = typename In::Op;
  using T = typename Op::T;
  using P = Wide<T>;
  using S = Steps<Op>;
  static constexpr int L = kLanes<T>, N = S::kNumbers;
  static constexpr int64_t kChunk = In::kChunk;
  static constexpr int64_t kTaskColumns = In::kPanels * P::kCols;
  static constexpr int64_t kSlices = 8;  // most slices of the rows
  static constexpr bool kNarrow = !std::is_same_v<T, Value>;
  static_assert(kChunk % P::kRows == 0 && P::kCols % (N * L) == 0);

  const SpectralContrastiveArgs<T, Value>& p;
  RowLength<T> length;
  int64_t panels, width, slices;  // width: columns of whole panels and of whole register tiles
  T *norm[2], *factor[2], *similarity, *partial, *gram, *diagonal;
  int64_t size = 0;

  explicit Spectral(const SpectralContrastiveArgs<T, Value>& args)
      : p(args), length(RowLength<T>::at_most(args.longest)) {
    panels = (p.d + P::kCols - 1) / P::kCols;
    width = round_up(max64(panels * P::kCols, round_up(p.d, P::kRows)), L);
    slices = max64(1, min64(kSlices, p.n / max64(1, 4 * p.d)));
    const auto take = [&](int64_t count) {
      T* out = p.workspace == nullptr ? nullptr : p.workspace + size;
      size += round_up(count, 64);
      return out;
    };
    for (int view = 0; view < 2; ++view) norm[view] = take(p.n), factor[view] = take(p.n);
    similarity = take(p.n);
    partial = take(slices * 2 * p.d * width);  // [slice][view][d][width]
    gram = take(2 * p.d * panels * P::kCols);  // [view][panel][step of d][kCols]
    diagonal = take(2 * p.d);                  // [view][d], where Op rounds: not in gram
  }

  T* part(int64_t slice, int64_t view) const { return partial + (slice * 2 + view) * p.d * width; }
  T* panel(int64_t view, int64_t c) const { return gram + view * p.d * panels * P::kCols + c * S::of(p.d); }
  int64_t begin(int64_t slice) const { return p.n * slice / slices; }

  // A shortened row into out, zeros up to whole steps; and as it is multiplied to `packed`, unless it is that already.
  void copy_row(int view, int64_t i, T* out, T* packed) const {
    const Value* z = p.z[view] + i * p.ldz[view];
    const T f = factor[view][i];
    int64_t k = 0;
    for (; k + N * L <= p.d; k += N * L) {
      Vec<T> v[N];
#pragma GCC unroll 2
      for (int s = 0; s < N; ++s) v[s] = f * load_wide(z + k + s * L), store(out + k + s * L, v[s]);
      if (N > 1) store(packed + k / N, S::along(v));
    }
    const int64_t rest = k, padded = round_up(p.d, N * L);
    for (; k < p.d; ++k) out[k] = f * widened(z[k]);
    for (; k < padded; ++k) out[k] = 0;
    if (N > 1) S::rounded(out + rest, padded - rest, reinterpret_cast<typename S::Value*>(packed + rest / N));
  }

  // The same of the rows of one step, those from i to below `end`.
  void copy_step(int view, int64_t i, int64_t end, int64_t count, int64_t padded, T* out) const {
    const Value* z[N];
    T f[N];
    for (int s = 0; s < N; ++s) {
      const int64_t row = min64(i + s, end - 1);
      z[s] = p.z[view] + row * p.ldz[view], f[s] = i + s < end ? factor[view][row] : T(0);
    }
    int64_t k = 0;
    for (; k + L <= count; k += L) {
      Vec<T> v[N];
#pragma GCC unroll 2
      for (int s = 0; s < N; ++s) v[s] = f[s] * load_wide(z[s] + k);
      store(out + k, S::across(v));
    }
    for (; k < count; ++k) {
      typename S::Value v[N];
      for (int s = 0; s < N; ++s) v[s] = S::round(f[s] * widened(z[s][k]));
      out[k] = S::join(v);
    }
    for (; k < padded; ++k) out[k] = 0;
  }

  void rows() const {
    for_rows(p.n, p.threads, [&](int64_t i) {
      T* const memory = kNarrow ? static_cast<T*>(scratch(0, sizeof(T) * 2 * p.d)) : nullptr;
      const T* x = wide_row(p.z[0] + i * p.ldz[0], p.d, memory);
      const T* y = wide_row(p.z[1] + i * p.ldz[1], p.d, memory + (kNarrow ? p.d : 0));
      for (int view = 0; view < 2; ++view) {
        norm[view][i] = static_cast<T>(row_norm(view == 0 ? x : y, p.d));
        factor[view][i] = static_cast<T>(length.factor(double(norm[view][i])));
      }
      similarity[i] = row_dot(x, y, p.d, factor[0][i], factor[1][i]);
    });
  }

  // Columns [c0, c0 + kTaskColumns) of one Gram matrix over one slice, on and above the diagonal blocks.
  void slice_product(int64_t slice, int view, int64_t c0) const {
    T* const out = part(slice, view);
    const int64_t end = min64(p.d, c0 + kTaskColumns);
    for (int64_t c = c0; c < end; c += P::kCols)
      for (int64_t i = 0; i < min64(p.d, c + P::kCols); ++i) zero(out + i * width + c, P::kCols);
    T* x = static_cast<T*>(scratch(0, sizeof(T) * kChunk * (width + P::kCols)));
    for (int64_t r = begin(slice); r < begin(slice + 1); r += kChunk) {
      const int64_t rows = min64(kChunk, begin(slice + 1) - r);
      for (int64_t k = 0; k < S::of(rows); ++k)
        copy_step(view, r + N * k, r + rows, end, round_up(end, P::kRows), x + k * width);
      for (int64_t c = c0; c < end; c += P::kCols) In::square(x, width, S::of(rows), c, p.d, out + c);
    }
  }

  // The sum of the slices into the first of them.
  void sum_slices(int view, int64_t c) const {
    T* out = part(0, view) + c;
    for (int64_t s = 1; s < slices; ++s) {
      const T* in = part(s, view) + c;
      for (int64_t i = 0; i < min64(p.d, c + P::kCols); ++i)
        for (int k = 0; k < P::kCols; ++k) out[i * width + k] += in[i * width + k];
    }
  }

  // One whole column panel: below the computed block, the other triangle.
  void emit(int view, int64_t c) const {
    const T* in = part(0, view);
    T* out = panel(view, c);
    for (int64_t s = 0; s < S::of(p.d); ++s) {
      T row[N][P::kCols] = {};
      for (int n = 0; n < N; ++n) {
        const int64_t i = N * s + n;
        for (int64_t k = 0; i < p.d && k < min64(P::kCols, p.d - c); ++k)
          row[n][k] = i < c + P::kCols ? in[i * width + c + k] : in[(c + k) * width + i];
      }
      for (int64_t i = max64(c, N * s); N > 1 && i < min64(min64(p.d, c + P::kCols), N * (s + 1)); ++i) {
        diagonal[view * p.d + i] = row[i - N * s][i - c];
        row[i - N * s][i - c] = 0;
      }
      for (int64_t k = 0; k < P::kCols; k += L) {
        Vec<T> v[N];
        for (int n = 0; n < N; ++n) v[n] = load(row[n] + k);
        store(out + s * P::kCols + k, S::across(v));
      }
    }
  }

  double inner() const {
    const T *a = part(0, 0), *b = part(0, 1);
    double lane[P::kCols] = {}, total = 0;
    for (int64_t i = 0; i < p.d; ++i)  // blocks right of the diagonal stand for two
      for (int64_t c = i / P::kCols * P::kCols; c < p.d; c += P::kCols) {
        const double times = c > i ? 2 : 1;
        const int64_t at = i * width + c;
        for (int64_t k = 0; k < min64(P::kCols, p.d - c); ++k) lane[k] += times * double(a[at + k]) * double(b[at + k]);
      }
    for (const double sum : lane) total += sum;
    return total;
  }

  void gradient(int64_t r) const {
    const int64_t rows = min64(kChunk, p.n - r), size = kChunk * width;
    T* const memory = static_cast<T*>(scratch(1, 4 * sizeof(T) * size));
    T *const row[2] = {memory, memory + size}, *const packed[2] = {memory + 2 * size, memory + 3 * size};
    for (int view = 0; view < 2; ++view)
      for (int64_t k = 0; k < rows; ++k) copy_row(view, r + k, row[view] + k * width, packed[view] + k * width);
    for (int view = 0; view < 2; ++view) {
      if (p.grad[view] == nullptr) continue;
      T* const grad = p.grad[view] + r * p.d;
      zero(grad, rows * p.d);
      In::times(N == 1 ? row[view] : packed[view], width, rows, panel(1 - view, 0), S::of(p.d), grad, p.d);
      for (int64_t k = 0; k < rows; ++k)
        finish(view, r + k, row[view] + k * width, row[1 - view] + k * width, grad + k * p.d);
    }
  }

  // g = x B on entry, the gradient of z on return
  void finish(int view, int64_t i, const T* x, const T* y, T* g) const {
    const T twice = static_cast<T>(2 * p.repulsion);
    const T of_pair = static_cast<T>(p.attraction - 2 * p.repulsion * double(similarity[i]));
    const T* whole = diagonal + (1 - view) * p.d;
    Vec<T> lanes{};
    T sum = 0;
    int64_t k = 0;
    for (; k + L <= p.d; k += L) {
      Vec<T> product = load(g + k);
      if (N > 1) product += load(whole + k) * load(x + k);
      const Vec<T> total = twice * product + of_pair * load(y + k);
      lanes += total * load(x + k);
      store(g + k, total);
    }
    for (; k < p.d; ++k) {
      if (N > 1) g[k] += whole[k] * x[k];
      g[k] = twice * g[k] + of_pair * y[k];
      sum += g[k] * x[k];
    }
    length.backward(double(norm[view][i]), x, hsum<T>(lanes) + sum, T(1), p.d, g);
  }

  void run() const {
    rows();
    const int64_t groups = (panels + In::kPanels - 1) / In::kPanels;
    parallel_for(2 * slices * groups, p.threads, [&](int64_t t) {  // the long panels first
      slice_product(t / 2 % slices, static_cast<int>(t % 2), (groups - 1 - t / (2 * slices)) * kTaskColumns);
    });
    parallel_for(2 * panels, p.threads, [&](int64_t t) { sum_slices(static_cast<int>(t % 2), t / 2 * P::kCols); });
    double pairs = 0, squares = 0;
    for (int64_t i = 0; i < p.n; ++i) {
      pairs += double(similarity[i]);
      squares += double(similarity[i]) * double(similarity[i]);
    }
    p.value[0] = pairs, p.value[1] = inner() - squares;
    if (p.grad[0] == nullptr && p.grad[1] == nullptr) return;
    parallel_for(2 * panels, p.threads, [&](int64_t t) { emit(static_cast<int>(t % 2), t / 2 * P::kCols); });
    parallel_for((p.n + kChunk - 1) / kChunk, p.threads, [&](int64_t t) { gradient(t * kChunk); });
  }
};

}  // namespace
}  // namespace sslspec::cpu

// The spectral contrastive loss of two views on the d x d side, with its gradient, from the rows as they come.
//
//   1. rows: norms, similarities of the pairs,
//   2. A = X^T X and B = Y^T Y: slices of the rows in parallel, a column panel per task, upper blocks only,
//   3. reduce: sums of the slices, <A, B> in fp64, B and A rewritten as whole column panels,
//   4. gradient: chunks of rows in parallel, X B and Y A with everything else done to the rows while they are in cache.
// Shortened rows exist in caches only. Memory traffic: the rows are read three times, the gradient is written once.
//
// Precision policy: norms in fp64, products in T over slices of fixed size, the two sums in fp64; the order of all sums
// is given by the shapes alone.
#include "fused/cpu/spectral_contrastive.h"

#include "simd/memory.h"
#include "simd/row_math.h"
#include "simd/scratch.h"
#include "simd/tile.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

template <typename T>
struct Spectral {
  using P = Wide<T>;
  static constexpr int L = kLanes<T>;
  static constexpr int64_t kChunk = P::kDepth;  // rows of one step; a multiple of P::kRows
  static constexpr int64_t kSlices = 8;         // most slices of the rows
  static_assert(kChunk % P::kRows == 0);

  const SpectralContrastiveArgs<T>& p;
  RowLength<T> length;
  int64_t panels, width, slices;  // width: columns of whole panels and of whole register tiles
  T *norm[2], *similarity, *partial, *gram;
  int64_t size = 0;

  explicit Spectral(const SpectralContrastiveArgs<T>& args) : p(args), length(RowLength<T>::at_most(args.longest)) {
    panels = (p.d + P::kCols - 1) / P::kCols;
    width = round_up(max64(panels * P::kCols, round_up(p.d, P::kRows)), L);
    slices = max64(1, min64(kSlices, p.n / max64(1, 4 * p.d)));
    const auto take = [&](int64_t count) {
      T* out = p.workspace == nullptr ? nullptr : p.workspace + size;
      size += round_up(count, 64);
      return out;
    };
    norm[0] = take(p.n), norm[1] = take(p.n), similarity = take(p.n);
    partial = take(slices * 2 * p.d * width);  // [slice][view][d][width]
    gram = take(2 * p.d * panels * P::kCols);  // [view][panel][d][kCols]
  }

  T* part(int64_t slice, int64_t view) const { return partial + (slice * 2 + view) * p.d * width; }
  T* panel(int64_t view, int64_t c) const { return gram + view * p.d * panels * P::kCols + c * p.d; }
  int64_t begin(int64_t slice) const { return p.n * slice / slices; }

  // The first `count` columns of a shortened row into out, zeros up to `padded`.
  void copy_row(int view, int64_t i, int64_t count, int64_t padded, T* out) const {
    const T* z = p.z[view] + i * p.ldz[view];
    const T f = factor(view, i);
    int64_t k = 0;
    for (; k + L <= count; k += L) store(out + k, f * load(z + k));
    for (; k < count; ++k) out[k] = f * z[k];
    for (; k < padded; ++k) out[k] = 0;
  }

  void rows() const {
    for_rows(p.n, p.threads, [&](int64_t i) {
      const T *x = p.z[0] + i * p.ldz[0], *y = p.z[1] + i * p.ldz[1];
      norm[0][i] = static_cast<T>(row_norm(x, p.d)), norm[1][i] = static_cast<T>(row_norm(y, p.d));
      similarity[i] = row_dot(x, y, p.d, factor(0, i), factor(1, i));
    });
  }

  T factor(int view, int64_t i) const { return static_cast<T>(length.factor(double(norm[view][i]))); }

  // Rows [0, c + kCols) of columns [c, c + kCols) of one Gram matrix, over one slice.
  void slice_product(int64_t slice, int view, int64_t c) const {
    T* out = part(slice, view) + c;
    const int64_t end = min64(p.d, c + P::kCols);
    for (int64_t i = 0; i < end; ++i) std::memset(out + i * width, 0, sizeof(T) * P::kCols);
    T* left = static_cast<T*>(scratch(0, sizeof(T) * kChunk * (width + P::kCols)));
    T* right = left + kChunk * width;
    for (int64_t r = begin(slice); r < begin(slice + 1); r += kChunk) {
      const int64_t rows = min64(kChunk, begin(slice + 1) - r);
      for (int64_t k = 0; k < rows; ++k) {
        copy_row(view, r + k, end, round_up(end, P::kRows), left + k * width);
        std::memcpy(right + k * P::kCols, left + k * width + c, sizeof(T) * static_cast<size_t>(end - c));
        for (int64_t l = end - c; l < P::kCols; ++l) right[k * P::kCols + l] = 0;
      }
      with_registers<P>(p.d - c, [&](auto count) __attribute__((always_inline)) {
        accumulate_panel<true, decltype(count)::value, Exact<T>>(left, width, end, rows, right, out, width, p.d - c);
      });
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
    for (int64_t i = 0; i < p.d; ++i)
      for (int64_t k = 0; k < P::kCols; ++k)
        out[i * P::kCols + k] = c + k >= p.d       ? T(0)
                                : i < c + P::kCols ? in[i * width + c + k]
                                                   : in[(c + k) * width + i];
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
    const int64_t rows = min64(kChunk, p.n - r);
    T* row[2];
    row[0] = static_cast<T*>(scratch(1, 2 * sizeof(T) * kChunk * width)), row[1] = row[0] + kChunk * width;
    for (int view = 0; view < 2; ++view)
      for (int64_t k = 0; k < rows; ++k) copy_row(view, r + k, p.d, p.d, row[view] + k * width);
    for (int view = 0; view < 2; ++view) {
      if (p.grad[view] == nullptr) continue;
      T* grad = p.grad[view] + r * p.d;
      zero(grad, rows * p.d);
      block_accumulate<false, T>(row[view], width, rows, p.d, {panel(1 - view, 0), p.d, 0}, grad, p.d, p.d);
      for (int64_t k = 0; k < rows; ++k)
        finish(view, r + k, row[view] + k * width, row[1 - view] + k * width, grad + k * p.d);
    }
  }

  // out = x B on entry, the gradient of z on return
  void finish(int view, int64_t i, const T* x, const T* y, T* out) const {
    const T twice = static_cast<T>(2 * p.repulsion);
    const T of_pair = static_cast<T>(p.attraction - 2 * p.repulsion * double(similarity[i]));
    Vec<T> lanes{};
    T sum = 0;
    int64_t k = 0;
    for (; k + L <= p.d; k += L) {
      const Vec<T> g = twice * load(out + k) + of_pair * load(y + k);
      lanes += g * load(x + k);
      store(out + k, g);
    }
    for (; k < p.d; ++k) {
      out[k] = twice * out[k] + of_pair * y[k];
      sum += out[k] * x[k];
    }
    length.backward(double(norm[view][i]), x, hsum<T>(lanes) + sum, T(1), p.d, out);
  }

  void run() const {
    rows();
    parallel_for(2 * slices * panels, p.threads, [&](int64_t t) {  // the long panels first
      slice_product(t / 2 % slices, static_cast<int>(t % 2), (panels - 1 - t / (2 * slices)) * P::kCols);
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

template <typename T>
int64_t spectral_contrastive_workspace(int64_t n, int64_t d) {
  SpectralContrastiveArgs<T> args{};
  args.n = n, args.d = d, args.longest = 1;
  return Spectral<T>(args).size;
}
template <typename T>
void spectral_contrastive(const SpectralContrastiveArgs<T>& args) {
  Spectral<T>(args).run();
}

template int64_t spectral_contrastive_workspace<float>(int64_t, int64_t);
template int64_t spectral_contrastive_workspace<double>(int64_t, int64_t);
template void spectral_contrastive<float>(const SpectralContrastiveArgs<float>&);
template void spectral_contrastive<double>(const SpectralContrastiveArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

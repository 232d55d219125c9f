// Sums of a radial function over the pairs of the rows of each view, and their gradient.
//
// Each block of products becomes squared distances, values and derivatives while it is in registers; the derivatives
// are the weights of one product with the rows. Where all rows are taken, blocks above the diagonal serve both of their
// sides, so value and gradient cost 3 n^2 d flops; for `count` of them 4 count n d. No statistics come first.
//
// Precision policy: squared lengths in fp64, rounded once to T; products, functions and sums of one block in T; the
// values of blocks, and what multiplies a row at the end, in fp64.
#include "normality/cpu/pairwise_kernel.h"

#include "pairwise/cpu/panels.h"
#include "simd/row_math.h"
#include "normality/cpu/radial.h"
#include "normality/cpu/views.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

// The workspace of one view after that of the panels.
template <typename T>
struct KernelBuffers {
  T *lengths, *offsets;  // [n], in T, readable for whole register tiles from any row on
  double* block_value;   // one a block of rows
  int32_t* ids;          // 0 ... n: by which a row leaves itself out of all columns
  int64_t padded, size;

  KernelBuffers(T* base, int64_t n, int64_t count, int64_t d, bool backward) {
    padded = round_up(n, 192) + 192;
    const int64_t blocks = round_up(padded / 48 * int64_t(sizeof(double) / sizeof(T)), 64);
    size = PairwiseBuffers<T>(nullptr, count, n, d, count == n, backward).size;
    lengths = base + size, offsets = lengths + padded;
    block_value = reinterpret_cast<double*>(offsets + padded);
    ids = reinterpret_cast<int32_t*>(offsets + padded + blocks);
    size += 2 * padded + blocks + (count == n ? 0 : round_up(n, 64));
  }
};

template <typename T, typename Radial>
struct KernelSums : PairwisePanels<T> {
  using Base = PairwisePanels<T>;
  using Base::p, Base::w, Base::rows, Base::cols, Base::for_pairs, Base::for_tiles, Base::accumulate, Base::L, Base::R,
      Base::V, Base::kLd, Base::kTileSize;

  const PairwiseKernelArgs<T>& q;
  const Radial& radial;
  KernelBuffers<T> more;

  KernelSums(const PairwiseArgs<T>& pairs, const PairwiseKernelArgs<T>& args, const Radial& radial)
      : Base(pairs, args.grad != nullptr ? Pass::backward : Pass::forward), q(args), radial(radial),
        more(pairs.workspace, args.n, args.count, args.d, args.grad != nullptr) {}

  // Values and weights of one block of pairs, where all rows are taken of both of its sides.
  void block(int64_t bi, int64_t bj) const {
    const int64_t i0 = rows.begin(bi), ni = rows.size(bi), j0 = cols.begin(bj), nj = cols.size(bj);
    const T *row_lengths = more.lengths + q.first, *row_offsets = more.offsets + q.first;
    const bool both = p.symmetric && bi != bj;
    T* tile = static_cast<T*>(scratch(0, sizeof(T) * kTileSize));
    Vec<T>* row_sum = static_cast<Vec<T>*>(scratch(1, 3 * sizeof(Vec<T>) * kLd));
    Vec<T>*row_value = row_sum + kLd, *col_sum = row_value + kLd;
    for (int64_t i = 0; i < round_up(ni, R); ++i) row_sum[i] = row_value[i] = Vec<T>{};
    for (int64_t j = 0; j < nj; j += L) col_sum[j / L] = Vec<T>{};
    const Vec<T> none{};
    for_tiles(i0, ni, j0, nj, tile, T(2),
              [&](int64_t i, int64_t j, const auto& x, auto plain) __attribute__((always_inline)) {
#pragma GCC unroll 1
                for (int r = 0; r < R; ++r) {
                  Vec<T> distance[V], k[V], weight[V];
#pragma GCC unroll 4
                  for (int v = 0; v < V; ++v) {
                    const Vec<T> s = load(more.lengths + j0 + j + v * L) + row_lengths[i0 + i + r] - x(r, v, none);
                    distance[v] = s < T(0) ? Vec<T>{} : s;  // keeps NaN
                    if constexpr (!decltype(plain)::value) distance[v] = s > kFar ? Vec<T>{} : distance[v];
                  }
                  radial(distance, k, weight);
                  Vec<T> value{}, sum{};
#pragma GCC unroll 4
                  for (int v = 0; v < V; ++v) {
                    k[v] = k[v] - row_offsets[i0 + i + r] - load(more.offsets + j0 + j + v * L);
                    if constexpr (!decltype(plain)::value) {
                      const auto left_out = x(r, v, none) == kNegInf<T>;
                      k[v] = left_out ? Vec<T>{} : k[v];
                      weight[v] = left_out ? Vec<T>{} : weight[v];
                    }
                    value += k[v], sum += weight[v];
                    col_sum[j / L + v] += weight[v];
                    store(tile + (i + r) * kLd + j + v * L, weight[v]);
                  }
                  row_value[i + r] += value, row_sum[i + r] += sum;
                }
              });
    double value = 0;
    for (int64_t i = 0; i < ni; ++i) {
      value += double(hsum<T>(row_value[i]));
      w.row_weight[i0 + i] += hsum<T>(row_sum[i]);
    }
    more.block_value[bi] += both ? 2 * value : value;
    if (both)
      for (int64_t j = 0; j < nj; j += L) {
        T* out = w.row_weight + j0 + j;
        store(out, load(out) + col_sum[j / L]);
      }
    if (q.grad != nullptr) accumulate(tile, i0, ni, j0, nj, p.grad_a, both ? p.grad_a : nullptr);
  }
  static constexpr T kFar = static_cast<T>(sizeof(T) == 4 ? 3e38 : 1e308);  // squared distances below; -(-inf) is not

  // Returns the value; grad_a becomes the gradient.
  double run(const double* lengths, const double* offsets, const double* slopes) const {
    for (int64_t i = 0; i < more.padded; ++i) {
      more.lengths[i] = i < q.n ? static_cast<T>(lengths[i]) : T(0);
      more.offsets[i] = i < q.n ? static_cast<T>(offsets[i]) : T(0);
    }
    zero(w.row_weight, round_up(p.n, 192));
    for (int64_t b = 0; b < rows.count; ++b) more.block_value[b] = 0;
    for_pairs([&](int64_t bi, int64_t bj) { block(bi, bj); });
    double total = double(p.n) * q.at_zero;  // the pairs i == j, which have no weight
    for (int64_t i = 0; i < p.n; ++i) total -= 2 * offsets[q.first + i];
    for (int64_t b = 0; b < rows.count; ++b) total += more.block_value[b];
    if (q.grad != nullptr) {
      const double per_row = 4 / double(q.n);
      const T around = static_cast<T>(-per_row * q.factor);
      for_rows(p.n, p.threads, [&](int64_t i) {
        const T own = static_cast<T>(q.factor * (per_row * double(w.row_weight[i]) - 4 * slopes[q.first + i]));
        const T* __restrict x = p.a + i * p.lda;
        T* __restrict g = p.grad_a + i * p.d;
        for (int64_t k = 0; k < p.d; ++k) g[k] = own * x[k] + around * g[k];
      });
    }
    return total / double(q.n);
  }
};

template <typename T, typename Radial>
void all_views(const PairwiseKernelArgs<T>& q, const Radial& radial) {
  const T one = 1;
  const bool all = q.count == q.n;
  const int64_t each = KernelBuffers<T>(nullptr, q.n, q.count, q.d, q.grad != nullptr).size;
  for_views(q.views, q.threads, [&](int64_t view, int threads) {
    PairwiseArgs<T> p{};
    p.b = q.z + view * q.ldv, p.a = p.b + q.first * q.ldz, p.lda = p.ldb = q.ldz, p.d = q.d;
    p.n = q.count, p.m = q.n, p.scale = &one, p.skip_self = p.symmetric = all;
    p.grad_a = q.grad == nullptr ? nullptr : q.grad + view * q.count * q.d;
    p.workspace = q.workspace + view * each, p.threads = threads;
    if (!all) {
      int32_t* ids = KernelBuffers<T>(p.workspace, q.n, q.count, q.d, q.grad != nullptr).ids;
      for (int64_t i = 0; i < q.n; ++i) ids[i] = static_cast<int32_t>(i);
      p.ids_a = ids + q.first, p.ids_b = ids;
    }
    const int64_t at = view * q.n;
    q.values[view] = KernelSums<T, Radial>(p, q, radial).run(q.lengths + at, q.offsets + at, q.slopes + at);
  });
}

}  // namespace

template <typename T>
int64_t pairwise_kernel_workspace(int64_t views, int64_t n, int64_t count, int64_t d, bool backward) {
  return views * KernelBuffers<T>(nullptr, n, count, d, backward).size;
}

template <typename T>
void pairwise_kernel_lengths(const T* z, int64_t ldv, int64_t ldz, int64_t views, int64_t n, int64_t d, double* out,
                             int threads) {
  for_rows(views * n, threads, [&](int64_t i) { out[i] = row_square(z + i / n * ldv + i % n * ldz, d); });
}

template <typename T>
void pairwise_kernel(const PairwiseKernelArgs<T>& q) {
  const T parameter = static_cast<T>(q.parameter);
  if (q.radial == RadialKind::gaussian) return all_views(q, GaussianRadial<T>{parameter});
  if (q.radial == RadialKind::inverse_root) return all_views(q, InverseRootRadial<T>{parameter});
  T* table = static_cast<T*>(scratch(2, sizeof(T) * 2 * size_t(q.terms)));
  for (int64_t m = 0; m < q.terms; ++m)
    for (int64_t k = 0; k < 2; ++k) table[2 * m + k] = static_cast<T>(q.table[k * q.terms + m]);
  all_views(q, SeriesRadial<T>{table, q.terms, static_cast<T>(-2 / q.parameter)});
}

template int64_t pairwise_kernel_workspace<float>(int64_t, int64_t, int64_t, int64_t, bool);
template int64_t pairwise_kernel_workspace<double>(int64_t, int64_t, int64_t, int64_t, bool);
template void pairwise_kernel_lengths<float>(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, double*, int);
template void pairwise_kernel_lengths<double>(const double*, int64_t, int64_t, int64_t, int64_t, int64_t, double*, int);
template void pairwise_kernel<float>(const PairwiseKernelArgs<float>&);
template void pairwise_kernel<double>(const PairwiseKernelArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

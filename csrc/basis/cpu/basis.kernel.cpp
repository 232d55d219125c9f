// Tall-skinny products, a few rows at a time: every row is read once, and all the rest stays in the caches.
//
// Precision policy: `gram` multiplies and sums kDepth = 96 rows in T and adds those sums in double; when `exact`, all
// of it is in double, so that a Cholesky factorisation of V^T V depends on V and not on its rounding. `combine` multiplies and
// sums in T. The order of every sum is given by the shape alone.
#include "basis/cpu/basis.h"

#include <cstring>

#include "simd/memory.h"
#include "simd/parallel.h"
#include "simd/scratch.h"
#include "simd/tail.h"
#include "simd/tile.h"

namespace sslspec::cpu::SSLSPEC_ISA {
namespace {

enum Slot { kLeft, kRight, kOut };

template <typename T>
T* room(int slot, int64_t count) {
  return static_cast<T*>(scratch(slot, count * sizeof(T)));
}

// Columns of x, times w[row] if there is one, as P in rows of `ld`, with zeros behind them up to column `padded`.
template <typename P, typename T>
void convert(const T* x, int64_t ldx, const T* w, int64_t rows, int64_t cols, int64_t padded, P* out, int64_t ld) {
  typedef T Few __attribute__((vector_size(kLanes<P> * sizeof(T))));
  for (int64_t r = 0; r < rows; ++r, x += ldx, out += ld) {
    const P factor = w == nullptr ? P(1) : static_cast<P>(w[r]);
    int64_t k = 0;
    for (; k + kLanes<P> <= cols; k += kLanes<P>) {
      Few few;
      std::memcpy(&few, x + k, sizeof(few));
      store(out + k, splat(factor) * __builtin_convertvector(few, Vec<P>));
    }
    for (; k < padded; ++k) out[k] = k < cols ? factor * static_cast<P>(x[k]) : P(0);
  }
}

// kR rows x kV registers of A^T diag(w) B over `rows` rows, straight from the operands, added to sums [.., q]. The next
// pass over the same columns begins kDepth rows below. A block is read for so few rows at a time that a hardware
// prefetcher starts anew with each: 30 blocks of 16 float32 of 1.2e5 rows took 31 ms without this, 11 with it.
template <bool kWeighted, int kR, int kV, typename T>
inline __attribute__((always_inline)) void gram_tile(const T* a, int64_t lda, const T* b, int64_t ldb, const T* w,
                                                     int64_t rows, double* sums, int64_t q) {
  constexpr int L = kLanes<T>;
  Vec<T> acc[kR][kV];
  clear(acc);
  for (int64_t k = 0; k < rows; ++k, a += lda, b += ldb) {
    __builtin_prefetch(a + Wide<T>::kDepth * lda, 0, 2);
    Vec<T> right[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) right[v] = kWeighted ? splat(w[k]) * load(b + v * L) : load(b + v * L);
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) acc[r][v] += splat(a[r]) * right[v];
  }
  T flat[kR][kV * L];
  std::memcpy(flat, acc, sizeof(flat));
  for (int r = 0; r < kR; ++r)
    for (int k = 0; k < kV * L; ++k) sums[r * q + k] += flat[r][k];
}

// Rows of the tiles of gram_tile: 16 accumulators of the 32 registers of AVX-512, else 8 of 16.
constexpr int kGramRows = kVecBytes == 64 ? 8 : 4;

// Blocks of whole tiles in the dtype of the products need no copy. A few columns more (deflated vectors) are slow ones.
template <typename T>
bool whole_tiles(const BasisGramArgs<T>& args) {
  int64_t single = 0;
  for (int t = 0; t < args.terms; ++t) single += args.a[t].m % kGramRows;
  return single < kGramRows && args.q % kLanes<T> == 0;
}

// kV registers of the sums of one block of A: in tiles of two registers' worth of rows, of one, and what is left
// singly.
template <bool kWeighted, int kV, typename T>
inline __attribute__((always_inline)) void gram_strip(const T* a, int64_t lda, int64_t m, const T* b, int64_t ldb,
                                                      const T* w, int64_t rows, double* sums, int64_t q) {
  constexpr int R = 2 * kGramRows / kV;
  int64_t i = 0;
  for (; i + R <= m; i += R) gram_tile<kWeighted, R, kV>(a + i, lda, b, ldb, w, rows, sums + i * q, q);
  if (R > kGramRows && i + kGramRows <= m) {
    gram_tile<kWeighted, kGramRows, kV>(a + i, lda, b, ldb, w, rows, sums + i * q, q);
    i += kGramRows;
  }
  for (; i < m; ++i) gram_tile<kWeighted, 1, kV>(a + i, lda, b, ldb, w, rows, sums + i * q, q);
}

// One chunk of the rows of A^T diag(w) B, from whole tiles.
template <bool kWeighted, typename T>
void gram_direct(const BasisGramArgs<T>& args, int64_t begin, int64_t end, double* sums) {
  constexpr int L = kLanes<T>;
  const int64_t q = args.q;
  zero(sums, args.p * q);
  for (int64_t r = begin; r < end; r += Wide<T>::kDepth) {
    const int64_t rows = min64(Wide<T>::kDepth, end - r);
    double* out = sums;
    for (int t = 0; t < args.terms; ++t) {
      const auto& a = args.a[t];
      const T* left = a.v + r * a.ldv;
      for (int64_t c = 0; c < q;) {
        const T *right = args.b + r * args.ldb + c, *weights = kWeighted ? args.w + r : nullptr;
        if (q - c >= 2 * L) {
          gram_strip<kWeighted, 2>(left, a.ldv, a.m, right, args.ldb, weights, rows, out + c, q);
          c += 2 * L;
        } else {
          gram_strip<kWeighted, 1>(left, a.ldv, a.m, right, args.ldb, weights, rows, out + c, q);
          c += L;
        }
      }
      out += a.m * q;
    }
  }
}

// One chunk of the rows of A^T diag(w) B with products in P.
template <typename P, typename T>
void gram_chunk(const BasisGramArgs<T>& args, int64_t begin, int64_t end, double* sums) {
  using W = Wide<P>;
  const int64_t p = args.p, q = args.q, lda = round_up(p, W::kRows);  // whole tiles are read
  P* left = room<P>(kLeft, W::kDepth * lda);
  P* right = room<P>(kRight, W::kDepth * round_up(q, W::kCols));
  P* part = room<P>(kOut, p * q);
  zero(sums, p * q);
  for (int64_t r = begin; r < end; r += W::kDepth) {
    const int64_t rows = min64(W::kDepth, end - r);
    int64_t at = 0;
    for (int t = 0; t < args.terms; ++t) {
      const auto& a = args.a[t];
      const bool last = t + 1 == args.terms;
      convert<P, T>(a.v + r * a.ldv, a.ldv, nullptr, rows, a.m, last ? lda - at : a.m, left + at, lda);
      at += a.m;
    }
    for (int64_t c = 0; c < q; c += W::kCols) {
      const int64_t cols = min64(W::kCols, q - c);
      convert(args.b + r * args.ldb + c, args.ldb, args.w == nullptr ? nullptr : args.w + r, rows, cols,
              round_up(cols, kLanes<P>), right + c * rows, W::kCols);
    }
    zero(part, p * q);
    block_accumulate<true, P>(left, lda, p, rows, {right, rows, 0}, part, q, q);
    for (int64_t k = 0; k < p * q; ++k) sums[k] += part[k];
  }
}

// Rows [r, r + rows) of the combination, rows <= Wide::kRows. panels: the coefficients of all terms, packed.
template <typename T>
struct Combination {
  using P = Wide<T>;
  static constexpr int R = P::kRows, L = kLanes<T>;
  const BasisCombineArgs<T>& args;
  const T* panels;
  T* out;  // [R, q], for wide rows: they may lie in a V that is still to be read

  // Many narrow blocks are more streams than a hardware prefetcher follows: 160 columns in blocks of 8 doubles took 31
  // ms for 1e5 rows without this, 19 with it, and 2 to 8 groups ahead were alike.
  static constexpr int kAhead = 2;  // groups of rows
  static constexpr int64_t kNarrow = 256 / sizeof(T);
  static inline __attribute__((always_inline)) void ask(const T* v, int64_t ldv, int64_t m) {
    for (int r = 0; r < R; ++r, v += ldv)
      for (int64_t k = 0; k < m; k += 64 / sizeof(T)) __builtin_prefetch(v + k, 0, 3);
  }

  template <int V>
  inline __attribute__((always_inline)) void tile(const T* const (&v)[kBasisTerms], const int64_t (&ldv)[kBasisTerms],
                                                  int64_t c, T* to, int64_t ldt, T beta) const {
    Vec<T> acc[R][V];
    clear(acc);
    const T* panel = panels;
    for (int t = 0; t < args.terms; ++t) {
      const int64_t m = args.term[t].m;
      if (c == 0 && m <= kNarrow) ask(v[t] + kAhead * R * ldv[t], ldv[t], m);
      multiply<false, P>(m, v[t], ldv[t], panel + c * m, acc);
      panel += m * round_up(args.q, P::kCols);
    }
    const int64_t lanes = min64(args.q - c - (V - 1) * L, L);
    const Tail<T> tail(lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        T* p = to + r * ldt + c + i * L;
        const bool cut = i == V - 1 && lanes < L;
        if (beta != T(0)) acc[r][i] += beta * (cut ? tail.load(p) : load(p));
        if (cut)
          tail.store(p, acc[r][i]);
        else
          store(p, acc[r][i]);
      }
  }

  void rows(int64_t r, int64_t count) const {
    const T* v[kBasisTerms];
    int64_t ldv[kBasisTerms], at = 0;
    T* copy = count < R ? room<T>(kLeft, R * total()) : nullptr;
    for (int t = 0; t < args.terms; ++t) {
      const auto& term = args.term[t];
      v[t] = term.v + r * term.ldv, ldv[t] = term.ldv;
      if (copy == nullptr) continue;
      for (int64_t i = 0; i < R; ++i)  // whole tiles are read: not past the end of V
        for (int64_t k = 0; k < term.m; ++k) copy[at + i * term.m + k] = i < count ? v[t][i * term.ldv + k] : T(0);
      v[t] = copy + at, ldv[t] = term.m, at += R * term.m;
    }
    T* y = args.y + r * args.ldy;
    const bool direct = count == R && args.q <= P::kCols;
    for (int64_t c = 0; c < args.q; c += P::kCols)
      with_registers<P>(args.q - c, [&](auto registers) __attribute__((always_inline)) {
        tile<decltype(registers)::value>(v, ldv, c, direct ? y : out, direct ? args.ldy : args.q,
                                         direct ? args.beta : T(0));
      });
    if (direct) return;
    for (int64_t i = 0; i < count; ++i, y += args.ldy) {
      const T* sum = out + i * args.q;
      if (args.beta == T(0))
        copy_all(y, sum, args.q);
      else
        for (int64_t k = 0; k < args.q; ++k) y[k] = args.beta * y[k] + sum[k];
    }
  }

  int64_t total() const {
    int64_t m = 0;
    for (int t = 0; t < args.terms; ++t) m += args.term[t].m;
    return m;
  }
};

}  // namespace

template <typename T>
void basis_gram(const BasisGramArgs<T>& args) {
  const int64_t n = args.n, size = args.p * args.q, chunks = gram_chunks(n);
  const bool whole = whole_tiles(args);
  parallel_for(chunks, args.threads, [&](int64_t chunk) {
    const int64_t begin = n * chunk / chunks, end = n * (chunk + 1) / chunks;
    double* sums = args.workspace + chunk * size;
    if (whole && (!args.exact || sizeof(T) == sizeof(double)))
      args.w == nullptr ? gram_direct<false>(args, begin, end, sums) : gram_direct<true>(args, begin, end, sums);
    else if (args.exact)
      gram_chunk<double>(args, begin, end, sums);
    else
      gram_chunk<T>(args, begin, end, sums);
  });
  zero(args.g, size);
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t k = 0; k < size; ++k) args.g[k] += args.workspace[chunk * size + k];
}

template <typename T>
void basis_combine(const BasisCombineArgs<T>& args) {
  using P = Wide<T>;
  Combination<T> sum{args, nullptr, nullptr};
  T* panels = room<T>(kRight, sum.total() * round_up(args.q, P::kCols));  // read by all threads
  sum.panels = panels;
  for (int t = 0; t < args.terms; ++t) {
    const auto& term = args.term[t];
    pack_columns<T>(term.c, term.ldc, 0, term.m, term.m, args.q, {}, panels);
    panels += term.m * round_up(args.q, P::kCols);
  }
  const int64_t groups = (args.n + P::kRows - 1) / P::kRows, tasks = groups < 512 ? 1 : min64(groups / 128, 256);
  parallel_for(tasks, args.threads, [&](int64_t task) {
    Combination<T> own = sum;
    own.out = room<T>(kOut, P::kRows * args.q);
    for (int64_t g = groups * task / tasks; g < groups * (task + 1) / tasks; ++g)
      own.rows(g * P::kRows, min64(P::kRows, args.n - g * P::kRows));
  });
}

// splitmix64 (Steele, Lea and Flood 2014): statistically good bits from a counter.
inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Four values from each 64-bit word. The sequences of two seeds start at unrelated counters. `first` may lie inside a
// word: `at` counts from the beginning of that one.
template <typename T>
void basis_random(T* y, int64_t size, int64_t first, uint64_t seed, int threads) {
  constexpr int64_t kTask = 1 << 14;
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  const int64_t lead = first % 4, end = lead + size;
  const uint64_t start = mix(seed + kStep) + static_cast<uint64_t>(first / 4) * kStep;
  parallel_for((end + kTask - 1) / kTask, threads, [&](int64_t task) {
    for (int64_t at = task * kTask; at < min64((task + 1) * kTask, end); at += 4) {
      const uint64_t word = mix(start + static_cast<uint64_t>(at / 4) * kStep);
      for (int64_t k = at == 0 ? lead : 0; k < min64(4, end - at); ++k)
        y[at + k - lead] = static_cast<T>(static_cast<int16_t>(word >> (16 * k))) * static_cast<T>(1.0 / 32768);
    }
  });
}

template void basis_random<float>(float*, int64_t, int64_t, uint64_t, int);
template void basis_random<double>(double*, int64_t, int64_t, uint64_t, int);
template void basis_gram<float>(const BasisGramArgs<float>&);
template void basis_gram<double>(const BasisGramArgs<double>&);
template void basis_combine<float>(const BasisCombineArgs<float>&);
template void basis_combine<double>(const BasisCombineArgs<double>&);

}  // namespace sslspec::cpu::SSLSPEC_ISA

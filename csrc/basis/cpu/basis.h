// CPU entry points of the `basis` primitive; see csrc/basis/basis.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

inline constexpr int kBasisTerms = 32;

// Pieces of the rows whose sums are merged at the end: by the size alone, so that results repeat.
inline int64_t gram_chunks(int64_t n) { return n < 4096 ? 1 : n < 32 * 2048 ? n / 2048 : 32; }

template <typename T>
struct BasisGramArgs {
  struct Block {
    const T* v;  // [n, m] row stride ldv
    int64_t ldv, m;
  };
  Block a[kBasisTerms];
  int terms;
  const T* b;            // [n, q] row stride ldb
  const T* w;            // [n] or null
  int64_t ldb, n, p, q;  // p: columns of all blocks of A
  double* g;             // [p, q]
  double* workspace;     // [gram_chunks(n), p, q]
  bool exact;
  int threads;
};

template <typename T>
struct BasisCombineArgs {
  struct Term {
    const T* v;  // [n, m] row stride ldv
    int64_t ldv;
    const T* c;  // [m, q] row stride ldc
    int64_t ldc, m;
  };
  Term term[kBasisTerms];
  int terms;
  T* y;  // [n, q] row stride ldy
  int64_t ldy, n, q;
  T beta;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> void basis_gram(const BasisGramArgs<T>& args);
                 template <typename T> void basis_combine(const BasisCombineArgs<T>& args); template <typename T>
                 void basis_random(T* y, int64_t size, int64_t first, uint64_t seed, int threads);)

}  // namespace sslspec::cpu

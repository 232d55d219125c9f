// CPU entry points of soft cross-entropy; see csrc/pairwise/soft.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

// Logits x_i . c_j + bias_j
template <typename T>
struct SoftSide {
  const T* x;  // [n, d] row stride ldx; null: there are none
  int64_t ldx;
  const T* c;  // [k, d] row stride ldc
  int64_t ldc, d;
  const T* bias;  // [k] or null
};

template <typename T>
struct PairwiseSoftArgs {
  int64_t n, k, e;
  SoftSide<T> student, teacher;
  bool skip_self, unit, first, last;  // as in csrc/pairwise/soft.h
  const T* weight;                    // [n]
  const T* tilt;                      // [k] or null; without teachers
  const T* left;                      // [n, e] row stride ldl
  int64_t ldl;
  const T* right;  // [k, e] row stride ldr
  int64_t ldr;
  T *rows, *entropy, *column_sum;  // [n], [n], [k]; the last two may be null
  T* sums;                         // [n, e] contiguous, or null
  T* grad;                         // [k, e] contiguous, or null
  T* workspace;
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T>
                 int64_t pairwise_soft_workspace(int64_t n, int64_t k, int64_t d, int64_t teacher_d, int64_t e);
                 template <typename T> void pairwise_soft(const PairwiseSoftArgs<T>& args);)

}  // namespace sslspec::cpu

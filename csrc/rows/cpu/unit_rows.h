// CPU entry points of `unit_rows`; see csrc/rows/unit_rows.h for the mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

template <typename T>
struct UnitRowsArgs {
  int operands;   // 1: z alone, 2: and the partner of every row
  const T* z[2];  // [n, d] row stride ldz; forward only
  int64_t ldz[2];
  int64_t n, d;
  double longest;    // 0: unit rows
  T* x[2];           // [n, d] contiguous
  T* norm[2];        // [n]
  T* dot;            // [n], two operands only
  const T* grad[2];  // [n, d] row stride ldg, and below: backward only
  int64_t ldg[2];
  const T* grad_dot;  // [n] or null
  T* grad_z[2];       // [n, d] contiguous
  int threads;
};

SSLSPEC_EACH_ISA(template <typename T> void unit_rows_forward(const UnitRowsArgs<T>& args);
                 template <typename T> void unit_rows_backward(const UnitRowsArgs<T>& args);)

}  // namespace sslspec::cpu

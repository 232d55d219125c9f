// Passes over the rows of two views, before, between and after those of `pairwise`; see csrc/fused/two_views.h for the
// mathematics.
#pragma once
#include <cstdint>
#include <type_traits>

#include "simd/isa.h"

namespace sslspec::cpu {

enum class ViewForm { stacked = 0, rows = 1, both = 2, sigmoid = 3 };

struct Bfloat16;  // simd/bfloat16.h

// Row i of 2 n is row i % n of view i / n. Value: what the rows hold in memory.
template <typename T, typename Value = T>
struct TwoViewsArgs {
  static constexpr bool kNarrow = !std::is_same_v<T, Value>;
  const Value* z[2];  // [n, d] row stride ldz
  int64_t ldz[2];
  int64_t n, d;
  ViewForm form;
  T scale, bias;
  const T* weight;   // [n] or null: 1
  double factor;     // of the loss
  bool unit;         // rows of length one; else they are taken as they are
  T* u;              // [2 n, d] contiguous, the unit rows; null with rows of Value, which make them again where needed
  uint16_t* half;    // [2 n, d] or null: the rows in bfloat16
  T* norm;           // [2 n] of unit rows
  T* factor_of_row;  // [2 n] 1 / norm, of unit rows that are not kept
  T* negatives;  // [2 n] from `pairwise`: a_i of the rows with a loss, or their sums over the other columns (sigmoid)
  T* losses;     // [2 n]
  T* loss;       // [1]
  T* samples;    // [n] or null
  // the gradient
  double largest;  // of the weights: what the rows' own are divided by
  T *own, *along;  // [2 n]: w_i / largest; x_i . v_i
  const T* v[2];   // [n, d] contiguous: W y, W^T x
  T applied[2];    // what those were multiplied by
  T* grad_z[2];    // [n, d] contiguous, the second or null; may be v
  T* of_bias;      // [n]: the sums of W by rows (sigmoid)
  T* grad_bias;    // [1] or null
  T* grad_scale;   // [1] or null
  int threads;

  int64_t anchors() const { return form == ViewForm::rows || form == ViewForm::sigmoid ? n : 2 * n; }  // with a loss
};

SSLSPEC_EACH_ISA(
    // u, norm and half, as far as they are wanted, and weight_i / largest to `own`, for rows [first, end) of the 2 n
    template <typename T, typename Value>
    void views_rows(const TwoViewsArgs<T, Value>& args, int64_t first, int64_t end);
    // p_i of the first view to `along`
    template <typename T, typename Value> void views_positives(const TwoViewsArgs<T, Value>& args);
    // losses of the anchors in [first, end), and w_i to `own`
    template <typename T, typename Value>
    void views_losses(const TwoViewsArgs<T, Value>& args, int64_t first, int64_t end);
    // the sums of the losses
    template <typename T, typename Value> void views_total(const TwoViewsArgs<T, Value>& args);
    template <typename T, typename Value> void views_gradient(const TwoViewsArgs<T, Value>& args);)

}  // namespace sslspec::cpu

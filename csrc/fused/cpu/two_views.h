// Passes over the rows of two views, before, between and after those of `pairwise`; see csrc/fused/two_views.h for the
// mathematics.
#pragma once
#include <cstdint>

#include "simd/isa.h"

namespace sslspec::cpu {

enum class ViewForm { stacked = 0, rows = 1, both = 2, sigmoid = 3 };

// Row i of 2 n is row i % n of view i / n.
template <typename T>
struct TwoViewsArgs {
  const T* z[2];  // [n, d] row stride ldz
  int64_t ldz[2];
  int64_t n, d;
  ViewForm form;
  T scale, bias;
  const T* weight;  // [n] or null: 1
  double factor;    // of the loss
  T* u;             // [2 n, d] contiguous, the unit rows; null: the rows are taken as they are
  uint16_t* half;   // [2 n, d] or null: the rows in bfloat16
  T* norm;          // [2 n] with u
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
  const T* rows(int view) const { return u == nullptr ? z[view] : u + view * n * d; }
  int64_t stride(int view) const { return u == nullptr ? ldz[view] : d; }
};

SSLSPEC_EACH_ISA(
    // u, norm and half, as far as they are wanted; weight_i / largest to `own`
    template <typename T> void views_rows(const TwoViewsArgs<T>& args);
    // p_i of the first view to `along`
    template <typename T> void views_positives(const TwoViewsArgs<T>& args);
    // losses of the anchors, and w_i to `own`
    template <typename T> void views_losses(const TwoViewsArgs<T>& args);
    // the sums of the losses
    template <typename T> void views_total(const TwoViewsArgs<T>& args);
    template <typename T> void views_gradient(const TwoViewsArgs<T>& args);)

}  // namespace sslspec::cpu

// A pair of the sigmoid loss: what it adds to the value, and its weight in the gradient.
#pragma once
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {

struct SigmoidPair {
  float value, weight;
};

// softplus(x) and its derivative, from one exponential.
__device__ __forceinline__ SigmoidPair negative_pair(float x) {
  const float e = exp2_fast(-fabsf(x) * kLog2e);  // in (0, 1]: neither branch cancels or overflows
  return {fmaxf(x, 0.0f) + log1p_unit(e), __fdividef(x >= 0 ? 1.0f : e, 1.0f + e)};
}

// softplus(-x) and its derivative.
__device__ __forceinline__ SigmoidPair positive_pair(float x) {
  const SigmoidPair other = negative_pair(-x);
  return {other.value, -other.weight};
}

// What a thread adds up over its pairs, each times the factor of its row: their values, their weights, and their
// weights times the products x . y.
struct SigmoidTotals {
  float value = 0, weight = 0, product = 0;
  __device__ __forceinline__ void add(SigmoidPair pair, float factor, float product_of_rows) {
    const float w = factor * pair.weight;
    value = fmaf(factor, pair.value, value), weight += w, product = fmaf(w, product_of_rows, product);
  }
};

// The totals of a warp to one slot.
__device__ __forceinline__ void store_totals(SigmoidTotals totals, SigmoidSums* slot) {
  const SigmoidSums sums = {warp_sum(totals.value), warp_sum(totals.weight), warp_sum(totals.product)};
  if (threadIdx.x % 32 == 0) *slot = sums;
}

__device__ __forceinline__ float number_or(const float* pointer, float number) {
  return pointer == nullptr ? number : *pointer;
}

}  // namespace sslspec::cuda

// What a block of `gram_pack` finds out about its columns before it reads their rows.
#pragma once
#include "gram/cuda/gram.cuh"
#include "rows/cuda/moments.cuh"

namespace sslspec::cuda {

template <typename In>
struct ColumnArgs {
  using T = typename Computed<In>::type;
  MomentParts<In> moments;  // without parts: columns stay as they are
  T* columns;               // [kColumnRows, d], written by the blocks of the first slab
  double* sums;             // pairs of terms, likewise
  int kind;
  bool summed;  // the diagonal is added up later
  T eps, strength;
};

template <typename T, int kColumns>
struct ColumnVectors {  // of a block, in shared memory
  T shift[2][kColumns], scale[2][kColumns];
};

// Of kColumns columns from `first` on, by a block of kThreads threads; all of them call it.
template <int kColumns, int kThreads, typename In>
__device__ __forceinline__ void describe_columns(const ColumnArgs<In>& p, int64_t first, bool writes,
                                                 ColumnVectors<typename Computed<In>::type, kColumns>& out) {
  using T = typename Computed<In>::type;
  __shared__ T mean[3][kColumns], var[3][kColumns];
  __shared__ double slots[kThreads / 32];
  static_assert(kColumns <= kThreads && kColumns % kGramBlock == 0);
  const int64_t d = p.moments.d;
  const T n = static_cast<T>(p.moments.slabs.n);
  const int operands = p.moments.parts == nullptr ? 0 : p.moments.y == nullptr ? 1 : 3;
  for (int at = threadIdx.x; at < operands * kColumns; at += kThreads) {
    const int o = at / kColumns, c = at % kColumns;
    if (first + c >= d) continue;
    const Moment<T> moment = p.moments.merged(o, first + c);
    mean[o][c] = moment.mean, var[o][c] = moment.var;
  }
  __syncthreads();
  double terms[2] = {0, 0};
  const int c = threadIdx.x;
  if (const int64_t k = first + c; c < kColumns && k < d) {
    T scale[2] = {1, 1}, own[2] = {}, other = 0;
    if (p.kind == kGramVicreg) {
      terms[0] = static_cast<double>(n) * (var[2][c] + mean[2][c] * mean[2][c]);
      for (int o = 0; o < 2; ++o) {
        const T deviation = sqrt(var[o][c] * (n / (n - 1)) + p.eps);
        if (deviation >= 1) continue;  // keeps NaN
        own[o] = p.strength / deviation;
        terms[1] += 1 - deviation;
      }
    } else if (p.kind == kGramBarlow) {
      for (int o = 0; o < 2; ++o) scale[o] = 1 / sqrt(var[o][c] + p.eps);
      const T from_one = var[2][c] * scale[0] * scale[1] - 1;
      other = from_one * 2 / n;
      terms[0] = static_cast<double>(from_one) * from_one;
    }
    for (int o = 0; o < 2; ++o) {
      out.shift[o][c] = o < operands ? mean[o][c] : T(0), out.scale[o][c] = scale[o];
      if (!writes) continue;
      p.columns[(kShift + o) * d + k] = out.shift[o][c];
      p.columns[(kScale + o) * d + k] = scale[o];
      p.columns[(kOwnFactor + o) * d + k] = own[o];
      p.columns[(kOtherFactor + o) * d + k] = other;
      if (!p.summed) p.columns[(kDiagonal + o) * d + k] = 0;
    }
  }
  __syncthreads();
  if (!writes) return;
  for (double& term : terms) term = block_sum<kThreads / 32>(term, slots);
  const int64_t slot = first / kGramBlock + threadIdx.x;  // the first one takes the sums of all columns
  if (threadIdx.x >= kColumns / kGramBlock || slot * kGramBlock >= d) return;
  p.sums[2 * slot] = threadIdx.x == 0 ? terms[0] : 0, p.sums[2 * slot + 1] = threadIdx.x == 0 ? terms[1] : 0;
}

}  // namespace sslspec::cuda

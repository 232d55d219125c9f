// Which kernels a problem runs on: those of Hopper (hopper/), where the build and the GPU have them and they are faster,
// or the portable ones (*_sm80.cu). All such choices are here, as far as gpu/hopper.h allows them.
#include "gpu/hopper.h"
#include "gpu/launch.h"
#include "pairwise/cuda/hopper/hopper.h"
#include "pairwise/cuda/portable.h"

namespace sslspec::cuda {
namespace {

// What all kernels of Hopper ask of the operands and of the current device: TMA has coordinates of 32 bits and strides
// of 16 bytes.
bool hopper_rows(const TensorView& x, const TensorView& y) {
  constexpr int64_t kMost = int64_t{1} << 30;
  for (const TensorView* rows : {&x, &y}) {
    const bool sizes = rows->shape[0] > 0 && rows->shape[0] < kMost && rows->shape[1] > 0;
    if (!sizes || rows->stride[0] <= 0 || rows->stride[0] % 8 != 0) return false;
  }
  return x.dtype == DType::bf16 && capability_major() == 9;
}
bool hopper_operands(const PairwiseProblem& p) { return p.scale_col == 0 && hopper_rows(p.x, p.y); }

enum class Statistics { portable, sums, tiles };

// The pass for rows on Hopper. On an H200 32768 rows against as many, 512 columns: 2.3 - 2.8 ms by sums, 1.8 - 2.4 in
// tiles (256 columns: 1.7 and 1.4, but small problems lose); with themselves 1.3 and 2.0, since the chunks of tiles
// multiply more than the upper triangle.
Statistics statistics_on_hopper(DType rows, int64_t d, bool symmetric) {
  if (!kHopperBuilt || rows != DType::bf16) return Statistics::portable;
  if (d <= kSumsWidth && hopper_names("strips")) return Statistics::sums;
  if (d <= (symmetric ? kSumsWidth : kSumsWidth / 2) && hopper_allows("sums")) return Statistics::sums;
  return hopper_allows("statistics") ? Statistics::tiles : Statistics::portable;
}

// Only the pass by strips of rows keeps exponentials. A strip of one tile would save nothing else, and the pass is a
// launch more.
bool strips_on_hopper(const PairwiseProblem& p) {
  if (p.kept.data != nullptr) return true;
  return p.bias == nullptr && PairwiseGrid(p.x.shape[0], p.y.shape[0]).span > 1 && hopper_names("strips");
}

// CUTLASS reaches 438 - 581 TF/s at d >= 512 on an H100, beyond what mma.sync can do there; below a thousand columns its
// 128 x 256 tiles leave most of the GPU idle.
bool weights_on_hopper(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w) {
  return p.y.shape[0] >= 1024 && p.x.shape[1] > 256 && (p.bias == nullptr || b.y_weights == nullptr) &&
         w.pitch % 8 == 0 && hopper_allows("weights") && hopper_operands(p);
}

bool exponentials_on_hopper(const PairwiseProblem& p, const WeightRows& w) {
  const bool plain = p.scale_row == 0 && p.x_ids == nullptr && p.skip_indptr == nullptr;
  return plain && p.y.shape[0] >= 1024 && w.pitch % 8 == 0 && hopper_allows("exponentials") && hopper_operands(p);
}

}  // namespace

int64_t pairwise_tile_sums_size(int64_t n, int64_t m, int64_t d, DType dtype, bool symmetric, bool columns) {
  if constexpr (kHopperBuilt)
    if (statistics_on_hopper(dtype, d, symmetric) == Statistics::tiles)
      return hopper_statistics_size(n, m, symmetric, columns);
  return 0;
}

void pairwise_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts, Partial* tile_sums) {
  const DeviceGuard guard(p.device);
  if constexpr (kHopperBuilt) {
    Statistics pass = statistics_on_hopper(p.x.dtype, p.x.shape[1], p.symmetric);
    if (p.kept.data != nullptr)
      pass = p.x.shape[1] <= kSumsWidth && hopper_names("kept") ? Statistics::sums : Statistics::portable;
    if (pass != Statistics::portable && hopper_operands(p)) {
      if (pass == Statistics::sums) {
        const bool strips = strips_on_hopper(p);
        if (strips) pairwise_strips_sm90a(p, x_parts, y_parts);
        return pairwise_sums_sm90a(p, x_parts, y_parts, strips);
      }
      return hopper_statistics(p, x_parts, y_parts, tile_sums);
    }
  }
  portable_statistics(p, x_parts, y_parts);
}

void pairwise_chained(const PairwiseProblem& p, const PairwiseBackward& b) {
  const DeviceGuard guard(p.device);
  bool done = false;
  if constexpr (kHopperBuilt)
    if (p.bias == nullptr && hopper_allows("chained") && hopper_operands(p)) {
      const int d = static_cast<int>(p.x.shape[1]);
      pairwise_chained_sm90a(p, {b.x_weights, b.y_weights, b.grad, b.row_dot, b.parts, b.splits, d, b.grad_f32});
      done = true;
    }
  if (!done) portable_chained(p, b);
  if (b.splits > 1 && b.grad != nullptr) pairwise_reduce(p, b);
}

void pairwise_weights(const PairwiseProblem& p, const PairwiseBackward& b, const WeightRows& w) {
  const DeviceGuard guard(p.device);
  if constexpr (kHopperBuilt)
    if (weights_on_hopper(p, b, w)) return hopper_weights(p, b, w);
  portable_weights(p, b, w);
}

void pairwise_exponentials(const PairwiseProblem& p, const WeightRows& w, float* workspace) {
  const DeviceGuard guard(p.device);
  if (w.row0 == 0) exponentials_shift(p, workspace);
  bool done = false;
  if constexpr (kHopperBuilt)
    if (exponentials_on_hopper(p, w)) {
      pairwise_exponentials_sm90a(p, w, workspace);
      done = true;
    }
  if (!done) portable_exponentials(p, w, workspace);
  exponentials_again(p, w, workspace);
}

void pairwise_sigmoid(const SigmoidProblem& p, const WeightRows& w, SigmoidSums* sums) {
  const DeviceGuard guard(p.device);
  if constexpr (kHopperBuilt)
    if (p.y.shape[0] >= 1024 && w.pitch % 8 == 0 && hopper_allows("sigmoid") && hopper_rows(p.x, p.y))
      return pairwise_sigmoid_sm90a(p, w, sums);
  portable_sigmoid(p, w, sums);
}

}  // namespace sslspec::cuda

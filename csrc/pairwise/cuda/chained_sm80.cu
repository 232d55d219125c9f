// The chained backward kernel and its launcher; chained.cuh describes the tiling.
#include "pairwise/cuda/chained.cuh"

#include "pairwise/cuda/portable.h"

namespace sslspec::cuda {
namespace {

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
    chained_kernel(const __grid_constant__ Pairs p, const __grid_constant__ Chain c) {
  constexpr int kTiles = Traits::kTiles, kN = Traits::kCols / 8;
  ChainedShared<Traits>& s = *reinterpret_cast<ChainedShared<Traits>*>(dynamic_shared());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * Traits::kRows;
  const int64_t tiles = ceil_div(p.y.count, Traits::kCols);
  const int64_t first = tiles * blockIdx.y / c.splits, last = tiles * (blockIdx.y + 1) / c.splits;

  const bool sigmoid_part = c.bias != nullptr;
  const float bias = sigmoid_part ? *c.bias : 0.0f, unit = sigmoid_part ? 1.0f : kLog2e;
  CommonShift common = {0.0f};
  if (!sigmoid_part) common = common_shift<Traits::kWarps>(p, s.slots);
  const bool one_exponential = sigmoid_part || common.serves();
  const float shift = common.value;

  load_rows<Traits, Traits::kRows>(s.x, p.x, i0);
  for (int at = threadIdx.x; at < 2 * Traits::kCols; at += Traits::kThreads) (&s.weight[0][0])[at] = kNoWeight;
  __syncthreads();  // before the copies that may overwrite them
  if (first < last) load_columns(s, 0, p, c, first * Traits::kCols);
  copy_commit();

  // This thread's rows: (q, h) is row warp 16 kTiles + 16 q + lane / 4 + 8 h of the block.
  Weight row[kTiles][2];
  float row_scale[kTiles][2], total[kTiles][2];
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t i = min(i0 + (warp * kTiles + q) * 16 + lane / 4 + h * 8, p.x.count - 1);
      row[q][h] = c.x_weights != nullptr ? c.x_weights[i] : kNoWeight;
      row_scale[q][h] = unit * (p.scale_col != 0 ? 1.0f : p.scale[i * p.scale_row]);
      total[q][h] = 0;
    }
  float out[kTiles][Traits::kD / 8][4] = {};

  for (int64_t tile = first; tile < last; ++tile) {
    const int stage = static_cast<int>(tile - first) % 2;
    const int64_t j0 = tile * Traits::kCols;
    if (tile + 1 < last) load_columns(s, 1 - stage, p, c, j0 + Traits::kCols);
    copy_commit();
    const bool masked = tile_is_masked(p, i0, Traits::kRows, j0, Traits::kCols);
    if (masked) fill_mask<Traits::kRows, Traits::kCols>(p, i0, j0, s.mask);
    copy_wait<1>();
    __syncthreads();

    float w[kTiles][kN][4] = {};
    first_product<Traits, kN>(w, s.x, s.y[stage]);

    const bool scaled = masked || p.scale_col != 0;
    if (scaled) {
#pragma unroll
      for (int q = 0; q < kTiles; ++q)
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            const int r = (warp * kTiles + q) * 16 + lane / 4 + h * 8;
            const uint32_t word = masked ? s.mask[r * (Traits::kCols / 32) + n / 4] : 0u;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int column = n * 8 + lane % 4 * 2 + e;
              const float factor = row_scale[q][h] * (p.scale_col != 0 ? s.scale[stage][column] : 1.0f);
              float& x = w[q][n][2 * h + e];
              x = word >> column % 32 & 1 ? negative_infinity() : x * factor;
            }
          }
    }
    // weight_of(product, factor, row, column) is chosen for the whole tile: a branch per pair would leave one
    // exponential in flight
    const auto weigh = [&](const auto& weight_of) {
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const Weight other = s.weight[stage][n * 8 + lane % 4 * 2 + e];
#pragma unroll
          for (int q = 0; q < kTiles; ++q)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              float& x = w[q][n][2 * h + e];
              x = weight_of(x, scaled ? 1.0f : row_scale[q][h], row[q][h], other);
            }
        }
    };
    if (sigmoid_part) {
      weigh([&](float x, float factor, Weight mine, Weight other) {
        return sigmoid(fmaf(x, factor, bias)) * (mine.factor + other.factor);
      });
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
#pragma unroll
          for (int q = 0; q < kTiles; ++q) total[q][0] += w[q][n][e], total[q][1] += w[q][n][2 + e];
    } else if (one_exponential) {
      weigh([&](float x, float factor, Weight mine, Weight other) {
        return exp2_fast(fmaf(x, factor, -shift)) * (mine.factor + other.factor);
      });
    } else {
      weigh([&](float x, float factor, Weight mine, Weight other) {
        return fmaf(other.factor, exp2_fast(fmaf(x, factor, -other.shift)),
                    mine.factor * exp2_fast(fmaf(x, factor, -mine.shift)));
      });
    }
    if (p.scale_col != 0) {
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float factor = s.scale[stage][n * 8 + lane % 4 * 2 + e];
#pragma unroll
          for (int q = 0; q < kTiles; ++q) w[q][n][e] *= factor, w[q][n][2 + e] *= factor;
        }
    }
    second_product<Traits, kN>(out, w, s.y[stage]);
    __syncthreads();  // this stage and the mask are free
  }
  copy_wait<0>();
  __syncthreads();  // X is in shared memory even when there was no tile

  using Elem = typename Traits::Elem;
  const int64_t width = c.d + 2;
#pragma unroll
  for (int q = 0; q < kTiles; ++q)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = (warp * kTiles + q) * 16 + lane / 4 + h * 8;
      const int64_t i = i0 + r;
      const Elem* x = reinterpret_cast<const Elem*>(s.x + r * Traits::kPitch);
      const float factor = p.scale_col != 0 || i >= p.x.count ? 1.0f : p.scale[i * p.scale_row];
      float* part = c.parts + (blockIdx.y * p.x.count + i) * width;
      float dot = 0;
#pragma unroll
      for (int f = 0; f < Traits::kD / 8; ++f) {
        const int k = f * 8 + lane % 4 * 2;
        const float v0 = out[q][f][2 * h], v1 = out[q][f][2 * h + 1];
        dot = fmaf(static_cast<float>(x[k]), v0, fmaf(static_cast<float>(x[k + 1]), v1, dot));
        if (k >= c.d || i >= p.x.count) continue;
        if (c.splits > 1)
          *reinterpret_cast<float2*>(part + k) = make_float2(v0, v1);
        else if (Traits::kHalf && !c.grad_f32)
          *reinterpret_cast<uint32_t*>(static_cast<Elem*>(c.grad) + i * c.d + k) = pack(v0 * factor, v1 * factor);
        else
          *reinterpret_cast<float2*>(static_cast<float*>(c.grad) + i * c.d + k) = make_float2(v0 * factor, v1 * factor);
      }
      dot = quad_sum(dot);
      const float row_sum = quad_sum(total[q][h]);
      if (lane % 4 != 0 || i >= p.x.count) continue;
      if (c.splits > 1) {
        part[c.d] = dot, part[c.d + 1] = row_sum;
      } else {
        if (c.row_dot != nullptr) c.row_dot[i] = dot;
        if (c.row_total != nullptr) c.row_total[i] = row_sum;
      }
    }
}

template <typename Traits>
void launch_chained(const PairwiseProblem& p, const Pairs& pairs, const Chain& chain) {
  launch("pairwise_chained", chained_kernel<Traits>,
         dim3(static_cast<unsigned>(ceil_div(p.x.shape[0], Traits::kRows)), static_cast<unsigned>(chain.splits)),
         Traits::kThreads, sizeof(ChainedShared<Traits>), p.stream, pairs, chain);
}

template <typename Math>
void launch_width(const PairwiseProblem& p, const Pairs& pairs, const Chain& chain) {
  if (chain.d <= 64) return launch_chained<ChainedTraits<Math, 64>>(p, pairs, chain);
  if (chain.d <= 128) return launch_chained<ChainedTraits<Math, 128>>(p, pairs, chain);
  launch_chained<ChainedTraits<Math, 256>>(p, pairs, chain);
}

template <typename Math>
size_t shared_bytes(int64_t d) {
  return d <= 64    ? sizeof(ChainedShared<ChainedTraits<Math, 64>>)
         : d <= 128 ? sizeof(ChainedShared<ChainedTraits<Math, 128>>)
                    : sizeof(ChainedShared<ChainedTraits<Math, 256>>);
}

}  // namespace

bool pairwise_chained_fits(int64_t d, DType dtype, int64_t shared) {
  if (d > 256) return false;
  return static_cast<int64_t>(dtype == DType::bf16 ? shared_bytes<Bf16>(d) : shared_bytes<Tf32>(d)) <= shared;
}

// Two blocks for each of 132 multiprocessors keep an H100 busy, and 256 (32768 rows) are near enough; a fixed number,
// so that the order of the sums does not depend on the GPU. At least 4 column tiles stay in each part.
int64_t pairwise_chained_splits(int64_t n, int64_t m) {
  const int64_t row_blocks = ceil_div(n, 128), tiles = ceil_div(m, 64);
  int64_t splits = 1;
  while (splits < 16 && row_blocks * splits < 256 && tiles >= 8 * splits) splits *= 2;
  return splits;
}

void portable_chained(const PairwiseProblem& p, const PairwiseBackward& b) {
  const DeviceGuard guard(p.device);
  const Pairs pairs = pairs_of(p);
  const Chain chain = {b.x_weights, b.y_weights, static_cast<const float*>(p.bias), b.grad,    b.row_dot, b.row_total,
                       b.parts,     b.splits,    static_cast<int>(p.x.shape[1]),    b.grad_f32};
  if (p.x.dtype == DType::bf16)
    launch_width<Bf16>(p, pairs, chain);
  else if (p.precision == Precision::fast)
    launch_width<Tf32>(p, pairs, chain);
  else
    launch_width<Tf32x3>(p, pairs, chain);
}

}  // namespace sslspec::cuda

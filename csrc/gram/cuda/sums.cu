// Squares of the products of `gram` on a GPU, the diagonal that is subtracted from them, and the loss.
//
// Tiling: a warp per row of a product; the columns of the diagonal are spread over the blocks, a thread for each of
// them; the block that ends last adds up the loss. After symmetric products, which come with their squares (hopper/),
// a kernel of its own does the latter. Memory traffic: one read of the products, one write in the type of
// the next GEMM. Precision policy: float along a row (double for double), float64 over rows, columns and slabs, in a
// fixed order.
#include <algorithm>

#include "gpu/hopper.h"
#include "gram/cuda/gram.cuh"
#include "gram/cuda/hopper/triangle.h"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
static_assert(kWarps == kGramRows);

template <typename T>
struct DiagonalArgs {
  const T* parts;  // [slabs, lines, d], or null
  Slabs slabs;
  int64_t lines, d;
  T* out;  // [2, d]; both rows get a single line
};

// The block's part of the diagonal; of the thread's columns the sum of squares.
template <typename T>
__device__ __forceinline__ double add_up_diagonal(const DiagonalArgs<T>& p) {
  if (p.parts == nullptr) return 0;
  const int64_t size = p.lines * p.d, each = ceil_div(size, gridDim.x), first = blockIdx.x * each,
                last = first + each < size ? first + each : size;
  double squares = 0;
  for (int64_t at = first + threadIdx.x; at < last; at += kThreads) {
    double total = 0;
#pragma unroll 4
    for (int64_t s = 0; s < p.slabs.count(); ++s) total += p.parts[s * size + at];
    p.out[at] = static_cast<T>(total);
    if (p.lines == 1) p.out[p.d + at] = static_cast<T>(total);
    squares += total * total;
  }
  return squares;
}

template <typename T>
struct LossArgs {
  const double* sums;
  int64_t counts[3];  // pairs, subtracted, squares
  double normalizers[3], weights[3];
  T *loss, *terms;  // null: there is none
};

// By one block, after all others.
template <typename T>
__device__ __forceinline__ void add_up_loss(const LossArgs<T>& p, double* slots) {
  double total[4] = {};  // both of the pairs, subtracted, squares
  const volatile double* at = p.sums;
  for (int64_t i = threadIdx.x; i < p.counts[0]; i += kThreads) total[0] += at[2 * i], total[1] += at[2 * i + 1];
  at += 2 * p.counts[0];
  for (int64_t i = threadIdx.x; i < p.counts[1]; i += kThreads) total[2] += at[i];
  at += p.counts[1];
  for (int64_t i = threadIdx.x; i < p.counts[2]; i += kThreads) total[3] += at[i];
#pragma unroll
  for (int t = 0; t < 4; ++t) total[t] = block_sum<kWarps>(total[t], slots);
  if (threadIdx.x > 0) return;
  const double terms[3] = {total[0], total[1], total[3] - total[2]};
  double loss = 0;
  for (int t = 0; t < 3; ++t) {
    p.terms[t] = static_cast<T>(p.normalizers[t] * terms[t]);
    loss += p.weights[t] * p.normalizers[t] * terms[t];
  }
  *p.loss = static_cast<T>(loss);
}

constexpr int kEndBlocks = 128;

struct EndArgs {
  double* sums;  // [kEndBlocks]
  unsigned* counter;
  DiagonalArgs<float> diagonal;
  LossArgs<float> loss;
};

__global__ void __launch_bounds__(kThreads) end_kernel(const __grid_constant__ EndArgs p) {
  __shared__ double slots[kWarps];
  const double squares = block_sum<kWarps>(add_up_diagonal(p.diagonal), slots);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = -squares;
  if (ends_last(p.counter)) add_up_loss(p.loss, slots);
}

template <typename T, typename Out>
struct SquareArgs {
  const T* in;  // [operands, chunks, r, c]
  Out* out;     // [operands, r, c], may be `in`
  double* sums;
  unsigned* counter;
  int64_t operands, chunks, r, c, offset;
  bool cross, masked;
  DiagonalArgs<T> diagonal;
  LossArgs<T> loss;
};

template <typename T, typename Out, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) square_kernel(const __grid_constant__ SquareArgs<T, Out> p) {
  using P = Pack<T, kWidth>;
  __shared__ double slots[kWarps];
  const int64_t groups = ceil_div(p.r, kGramRows), first = blockIdx.x / groups;  // the operand, or 0 of both
  const int64_t i = blockIdx.x % groups * kGramRows + threadIdx.x / 32, size = p.r * p.c;
  T sum = 0;
  if (i < p.r)
    for (int64_t j = threadIdx.x % 32 * kWidth; j < p.c; j += 32 * kWidth) {
      P k[2];
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        if (o == 1 && !p.cross) break;
        const T* in = p.in + (first + o) * p.chunks * size + i * p.c + j;
        k[o] = load_wide<kWidth>(in);
#pragma unroll 2
        for (int64_t chunk = 1; chunk < p.chunks; ++chunk) {
          const P more = load_wide<kWidth>(in + chunk * size);
#pragma unroll
          for (int e = 0; e < kWidth; ++e) k[o].v[e] += more.v[e];
        }
#pragma unroll
        for (int e = 0; e < kWidth; ++e)
          if (p.masked && j + e == i + p.offset) k[o].v[e] = 0;
      }
#pragma unroll
      for (int e = 0; e < kWidth; ++e) sum += k[0].v[e] * (p.cross ? k[1].v[e] : k[0].v[e]);
      store_narrow<Out>(p.out + (p.cross ? 1 : first) * size + i * p.c + j, k[0]);
      if (p.cross) store_narrow<Out>(p.out + i * p.c + j, k[1]);
    }
  // a row in T, rows in float64
  sum = warp_sum(sum);
  double total = threadIdx.x % 32 == 0 ? static_cast<double>(sum) : 0.0;
  total = block_sum<kWarps>(total - add_up_diagonal(p.diagonal), slots);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = total;
  if (p.loss.loss != nullptr && ends_last(p.counter)) add_up_loss(p.loss, slots);
}

template <typename T, typename Out>
void square(const SquareArgs<T, Out>& p, bool wide, int64_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.r, kGramRows) * (p.cross ? 1 : p.operands)));
  launch("gram_square", wide ? square_kernel<T, Out, kWide> : square_kernel<T, Out, 1>, grid, kThreads, 0, stream, p);
}

constexpr const char* kOp = "gram";

void check_loss(const GramLoss& loss, const TensorView& sums, DType type) {
  SSLSPEC_CHECK(loss.normalizers.size() == 3 && loss.weights.size() == 3, kOp, ": three normalizers and weights");
  SSLSPEC_CHECK(loss.pairs >= 0 && loss.subtracted >= 0, kOp, ": counts must not be negative");
  check_sums(sums, 0, kCounterSlots + 2 * loss.pairs + loss.subtracted, sums.device);
  check_dense(kOp, "loss", loss.loss, 0, nullptr, type, sums.device);
  check_vector(kOp, "terms", loss.terms, 3, type, sums.device);
}

void check_diagonal(const GramDiagonal& diagonal, DType type, int device) {
  if (!diagonal.workspace.present()) return;
  const TensorView& columns = diagonal.columns;
  SSLSPEC_CHECK(columns.ndim == 2 && diagonal.n >= 1, kOp, ": columns must be a matrix, got ", shape_text(columns));
  check_block("columns", columns, {kColumnRows, columns.shape[1]}, type, device);
  check_vector(kOp, "workspace", diagonal.workspace, gram_workspace_size(diagonal.n, columns.shape[1]), type, device);
}

template <typename T>
LossArgs<T> loss_of(const GramLoss& loss, const TensorView& sums) {
  LossArgs<T> p = {};
  if (!loss.loss.present()) return p;
  const int64_t squares = sums.shape[0] - kCounterSlots - 2 * loss.pairs - loss.subtracted;
  p.sums = sums.as<double>() + kCounterSlots, p.loss = loss.loss.as<T>(), p.terms = loss.terms.as<T>();
  p.counts[0] = loss.pairs, p.counts[1] = loss.subtracted, p.counts[2] = squares;
  for (size_t i = 0; i < 3; ++i) p.normalizers[i] = loss.normalizers[i], p.weights[i] = loss.weights[i];
  return p;
}

template <typename T>
DiagonalArgs<T> diagonal_of(const GramDiagonal& diagonal, int64_t lines) {
  if (!diagonal.workspace.present()) return {};
  const int64_t d = diagonal.columns.shape[1];
  return {diagonal.workspace.as<T>(), gram_slabs(diagonal.n, d), lines, d, diagonal.columns.as<T>() + kDiagonal * d};
}

}  // namespace

void gram_square(TensorView products, const GramStrip& strip, TensorView out, TensorView sums,
                 const GramDiagonal& diagonal, const GramLoss& loss, int64_t stream) {
  const DType type = products.dtype == DType::f64 ? DType::f64 : DType::f32;
  const int64_t* shape = products.shape;
  SSLSPEC_CHECK(products.ndim == 4 && products.device != kCpu, kOp,
                ": products must be (operands, chunks, r, c) on a CUDA device, got ", shape_text(products));
  SSLSPEC_CHECK(!strip.cross || shape[0] == 2, kOp, ": the cross form needs two operands, got ", shape[0]);
  const bool half = out.dtype == DType::bf16 && type == DType::f32;
  check_block("products", products, {shape[0], shape[1], shape[2], shape[3]}, type, products.device);
  check_block("out", out, {shape[0], shape[2], shape[3]}, half ? DType::bf16 : type, products.device);
  check_sums(sums, strip.slot, ceil_div(shape[2], kGramRows) * (strip.cross ? 1 : shape[0]), products.device);
  check_diagonal(diagonal, type, products.device);
  if (loss.loss.present()) check_loss(loss, sums, type);
  const DeviceGuard guard(products.device);
  const auto run = [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using Out = typename decltype(o)::type;
    const auto fits = [](const TensorView& v) { return reinterpret_cast<uintptr_t>(v.data) % 16 == 0; };
    square<T, Out>({products.as<T>(), out.as<Out>(), sums.as<double>() + strip.slot, gram_counter(sums), shape[0],
                    shape[1], shape[2], shape[3], strip.offset, strip.cross, strip.masked,
                    diagonal_of<T>(diagonal, strip.cross ? 1 : shape[0]), loss_of<T>(loss, sums)},
                   fits(products) && fits(out) && shape[3] % (16 / sizeof(T)) == 0, stream);
  };
  if (half) return run(Type<float>{}, Type<__nv_bfloat16>{});
  type == DType::f64 ? run(Type<double>{}, Type<double>{}) : run(Type<float>{}, Type<float>{});
}

#ifndef SSLSPEC_TRIANGLE_TILES  // the emulator's tests use few
#define SSLSPEC_TRIANGLE_TILES 64
#endif

int64_t gram_triangle_slots(TensorView x, int64_t operands, bool columns, bool half) {
  constexpr int64_t kMost = int64_t{64} << 20;  // bytes of a matrix
  SSLSPEC_CHECK(x.ndim == 2, kOp, ": x must be a matrix, got ", shape_text(x));
  const int64_t n = x.shape[0], d = x.shape[1], side = columns ? d : n, tiles = operands * triangle_tiles(side);
  const bool fits = half && side % 8 == 0 && d % 8 == 0 && side * side * 2 <= kMost && tiles >= SSLSPEC_TRIANGLE_TILES;
  if (!kHopperBuilt || !fits || std::max(n, d) >= int64_t{1} << 30 || !hopper_names("triangle")) return 0;
  const DeviceGuard guard(x.device);
  return capability_major() == 9 ? tiles * TriangleTraits::kWarps + kEndBlocks : 0;
}

void gram_triangle(TensorView factors, const GramTriangle& how, TensorView out, TensorView sums,
                   const GramDiagonal& diagonal, const GramLoss& loss, int64_t stream) {
  SSLSPEC_CHECK(factors.ndim == 3 && factors.device != kCpu, kOp,
                ": factors must be (operands, rows, d) on a CUDA device, got ", shape_text(factors));
  const int64_t operands = factors.shape[0], rows = factors.shape[1], d = factors.shape[2];
  const TriangleProblem p = {factors.data,   operands,   rows,     d,
                             how.columns,    how.masked, out.data, sums.as<double>() + how.slot,
                             factors.device, stream};
  const int64_t squares = operands * triangle_tiles(p.side()) * TriangleTraits::kWarps;
  check_block("factors", factors, {operands, rows, d}, DType::bf16, factors.device);
  check_block("out", out, {operands, p.side(), p.side()}, DType::bf16, factors.device);
  check_sums(sums, how.slot, squares + kEndBlocks, factors.device);
  check_diagonal(diagonal, DType::f32, factors.device);
  check_loss(loss, sums, DType::f32);
  const auto fits = [](const TensorView& v) { return reinterpret_cast<uintptr_t>(v.data) % 16 == 0; };
  SSLSPEC_CHECK(p.side() % 8 == 0 && d % 8 == 0 && fits(factors) && fits(out), kOp,
                ": rows of factors and of out must lie at multiples of 16 bytes, got sides ", p.side(), " and ", d);
  const DeviceGuard guard(factors.device);
  if constexpr (kHopperBuilt)
    gram_triangle_sm90a(p);
  else
    SSLSPEC_CHECK(false, kOp, ": this build has no kernels for compute capability 9.0");
  const EndArgs end = {p.sums + squares, gram_counter(sums), diagonal_of<float>(diagonal, operands),
                       loss_of<float>(loss, sums)};
  launch("gram_end", end_kernel, dim3(kEndBlocks), kThreads, 0, stream, end);
}

}  // namespace sslspec::cuda

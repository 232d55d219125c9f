// The sums of `gram` on a GPU: vectors per column, squares of products, and the loss.
//
// Tiling: a thread per column (256 of a block), a warp per row of a product, one block for the loss. Memory traffic:
// one read of the products, one write in the type of the next GEMM. Precision policy: float along a row (double for
// double), float64 over rows, columns and slabs, in a fixed order.
#include <algorithm>

#include "gram/cuda/gram.cuh"
#include "rows/cuda/moments.h"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = kGramBlock, kWarps = kThreads / 32;
static_assert(kWarps == kGramRows);

// Over the block, in a fixed order; thread 0 gets the sum.
__device__ __forceinline__ double block_sum(double x, double* slots) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += slots[w];
  return total;
}

template <typename T>
struct ColumnArgs {
  const T *mean, *var;  // [1 or 3, d]; the last of three: of x - y, or the covariance
  T* columns;
  double* sums;  // pairs
  int64_t n, d;
  int kind, shifted;  // operands that have a mean
  T eps, strength;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) columns_kernel(const __grid_constant__ ColumnArgs<T> p) {
  __shared__ double slots[kWarps];
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, d = p.d;
  const T n = static_cast<T>(p.n);
  double first = 0, second = 0;
  if (k < d) {
    T scale[2] = {1, 1}, own[2] = {}, other = 0;
    if (p.kind == kGramVicreg) {
      const T mean = p.mean[2 * d + k];
      first = static_cast<double>(n) * (p.var[2 * d + k] + mean * mean);
      for (int o = 0; o < 2; ++o) {
        const T deviation = sqrt(p.var[o * d + k] * (n / (n - 1)) + p.eps);
        if (deviation >= 1) continue;  // keeps NaN
        own[o] = p.strength / deviation;
        second += 1 - deviation;
      }
    } else if (p.kind == kGramBarlow) {
      for (int o = 0; o < 2; ++o) scale[o] = 1 / sqrt(p.var[o * d + k] + p.eps);
      const T from_one = p.var[2 * d + k] * scale[0] * scale[1] - 1;
      other = from_one * 2 / n;
      first = static_cast<double>(from_one) * from_one;
    }
    for (int o = 0; o < 2; ++o) {
      p.columns[(kShift + o) * d + k] = o < p.shifted ? p.mean[o * d + k] : T(0);
      p.columns[(kScale + o) * d + k] = scale[o];
      p.columns[(kOwnFactor + o) * d + k] = own[o];
      p.columns[(kOtherFactor + o) * d + k] = other;
      p.columns[(kDiagonal + o) * d + k] = 0;
    }
  }
  first = block_sum(first, slots), second = block_sum(second, slots);
  if (threadIdx.x == 0) p.sums[2 * blockIdx.x] = first, p.sums[2 * blockIdx.x + 1] = second;
}

template <typename T>
struct TotalArgs {
  const T* parts;  // [slabs, lines, d]
  int64_t slabs, lines, d;
  double factor;  // of every total
  T* out;         // [lines, d], or [2, d] if doubled
  bool doubled;   // both rows get the one line
  double* sums;   // of the squares, one per block; or null
};

template <typename T>
__global__ void __launch_bounds__(kThreads) totals_kernel(const __grid_constant__ TotalArgs<T> p) {
  __shared__ double slots[kWarps];
  const int64_t blocks = ceil_div(p.d, kThreads), line = blockIdx.x / blocks;
  const int64_t k = blockIdx.x % blocks * kThreads + threadIdx.x;
  double total = 0;
  if (k < p.d) {
    for (int64_t s = 0; s < p.slabs; ++s) total += p.parts[(s * p.lines + line) * p.d + k];
    total *= p.factor;
    p.out[line * p.d + k] = static_cast<T>(total);
    if (p.doubled) p.out[p.d + k] = static_cast<T>(total);
  }
  if (p.sums == nullptr) return;
  const double square = block_sum(total * total, slots);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = square;
}

template <typename T>
void totals(const TotalArgs<T>& p, int64_t stream) {
  launch("gram_totals", totals_kernel<T>, dim3(static_cast<unsigned>(ceil_div(p.d, kThreads) * p.lines)), kThreads, 0,
         stream, p);
}

template <typename T, typename Out>
struct SquareArgs {
  const T* in;  // [operands, chunks, r, c]
  Out* out;     // [operands, r, c], may be `in`
  double* sums;
  int64_t operands, chunks, r, c, offset;
  bool cross, masked;
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
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += slots[w];
  p.sums[blockIdx.x] = total;
}

template <typename T, typename Out>
void square(const SquareArgs<T, Out>& p, bool wide, int64_t stream) {
  constexpr int kWide = 16 / sizeof(T);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.r, kGramRows) * (p.cross ? 1 : p.operands)));
  launch("gram_square", wide ? square_kernel<T, Out, kWide> : square_kernel<T, Out, 1>, grid, kThreads, 0, stream, p);
}

template <typename T>
struct LossArgs {
  const double* sums;
  int64_t counts[3];  // pairs, subtracted, squares
  double normalizers[3], weights[3];
  T *loss, *terms;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) loss_kernel(const __grid_constant__ LossArgs<T> p) {
  __shared__ double slots[kWarps];
  double total[4] = {};  // both of the pairs, subtracted, squares
  const double* at = p.sums;
  for (int64_t i = threadIdx.x; i < p.counts[0]; i += kThreads) total[0] += at[2 * i], total[1] += at[2 * i + 1];
  at += 2 * p.counts[0];
  for (int64_t i = threadIdx.x; i < p.counts[1]; i += kThreads) total[2] += at[i];
  at += p.counts[1];
  for (int64_t i = threadIdx.x; i < p.counts[2]; i += kThreads) total[3] += at[i];
#pragma unroll
  for (int t = 0; t < 4; ++t) total[t] = block_sum(total[t], slots);
  if (threadIdx.x > 0) return;
  const double terms[3] = {total[0], total[1], total[3] - total[2]};
  double loss = 0;
  for (int t = 0; t < 3; ++t) {
    p.terms[t] = static_cast<T>(p.normalizers[t] * terms[t]);
    loss += p.weights[t] * p.normalizers[t] * terms[t];
  }
  *p.loss = static_cast<T>(loss);
}

constexpr const char* kOp = "gram";

}  // namespace

int64_t gram_workspace_size(int64_t n, int64_t d) {
  // moments and their partial results; or partial sums of four values and their means (of two with some rows more)
  return std::max(moments_workspace_size(n, d, 2) + 6 * d, (4 * gram_slabs(n) + 32) * d);
}

void gram_columns(const TensorView& x, const TensorView& y, const GramForm& form, const TensorView& columns,
                  const TensorView& sums, const Run& run) {
  const int kind = form.kind;
  SSLSPEC_CHECK(kind >= kGramPlain && kind <= kGramBarlow, kOp, ": unknown kind ", kind);
  SSLSPEC_CHECK(y.present() || kind <= kGramCentred, kOp, ": this kind needs y");
  const int64_t n = x.shape[0], d = x.shape[1], operands = y.present() ? 3 : 1, blocks = ceil_div(d, kThreads);
  check_sums(sums, 0, 2 * blocks, x.device);
  const auto launch_columns = [&](auto t) {
    using T = typename decltype(t)::type;
    T* means = run.workspace.as<T>();
    if (kind != kGramPlain) {
      const auto part = [&](T* data, int64_t rows, int64_t size) {
        TensorView v = columns;
        v.data = data, v.ndim = rows > 0 ? 2 : 1;
        v.shape[0] = rows > 0 ? rows : size, v.shape[1] = size, v.stride[0] = rows > 0 ? size : 1, v.stride[1] = 1;
        return v;
      };
      moments_forward(x, y, kind == kGramBarlow, part(means, operands, d), part(means + 3 * d, operands, d),
                      {part(means + 6 * d, 0, moments_workspace_size(n, d, y.present() ? 2 : 1)), run.stream});
    }
    const int shifted = kind == kGramPlain ? 0 : y.present() ? 2 : 1;
    const ColumnArgs<T> p = {
        means, means + 3 * d, columns.as<T>(), sums.as<double>(),        n,
        d,     kind,          shifted,         static_cast<T>(form.eps), static_cast<T>(form.strength)};
    launch("gram_columns", columns_kernel<T>, dim3(static_cast<unsigned>(blocks)), kThreads, 0, run.stream, p);
  };
  x.dtype == DType::f64 ? launch_columns(Type<double>{}) : launch_columns(Type<float>{});
}

void gram_diagonal(const TensorView& parts, int64_t slabs, int64_t lines, const TensorView& columns,
                   const TensorView& sums, int64_t stream) {
  const int64_t d = columns.shape[1], slot = 2 * ceil_div(d, kThreads);
  check_sums(sums, slot, lines * ceil_div(d, kThreads), columns.device);
  const auto run = [&](auto t) {
    using T = typename decltype(t)::type;
    totals<T>(
        {parts.as<T>(), slabs, lines, d, 1.0, columns.as<T>() + kDiagonal * d, lines == 1, sums.as<double>() + slot},
        stream);
  };
  columns.dtype == DType::f64 ? run(Type<double>{}) : run(Type<float>{});
}

void gram_means(const TensorView& workspace, int64_t slabs, int64_t n, int64_t d, int64_t stream) {
  const auto run = [&](auto t) {
    using T = typename decltype(t)::type;
    T* parts = workspace.as<T>();
    totals<T>({parts, slabs, 4, d, 1.0 / static_cast<double>(n), parts + slabs * 4 * d, false, nullptr}, stream);
  };
  workspace.dtype == DType::f64 ? run(Type<double>{}) : run(Type<float>{});
}

void gram_square(TensorView products, bool cross, bool masked, int64_t offset, TensorView out, TensorView sums,
                 int64_t slot, int64_t stream) {
  const DType type = products.dtype == DType::f64 ? DType::f64 : DType::f32;
  const int64_t* shape = products.shape;
  SSLSPEC_CHECK(products.ndim == 4 && products.device != kCpu, kOp,
                ": products must be (operands, chunks, r, c) on a CUDA device, got ", shape_text(products));
  SSLSPEC_CHECK(!cross || shape[0] == 2, kOp, ": the cross form needs two operands, got ", shape[0]);
  const bool half = out.dtype == DType::bf16 && type == DType::f32;
  check_block("products", products, {shape[0], shape[1], shape[2], shape[3]}, type, products.device);
  check_block("out", out, {shape[0], shape[2], shape[3]}, half ? DType::bf16 : type, products.device);
  check_sums(sums, slot, ceil_div(shape[2], kGramRows) * (cross ? 1 : shape[0]), products.device);
  const DeviceGuard guard(products.device);
  const auto run = [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using Out = typename decltype(o)::type;
    const auto fits = [](const TensorView& v) { return reinterpret_cast<uintptr_t>(v.data) % 16 == 0; };
    square<T, Out>({products.as<T>(), out.as<Out>(), sums.as<double>() + slot, shape[0], shape[1], shape[2], shape[3],
                    offset, cross, masked},
                   fits(products) && fits(out) && shape[3] % (16 / sizeof(T)) == 0, stream);
  };
  if (half) return run(Type<float>{}, Type<__nv_bfloat16>{});
  type == DType::f64 ? run(Type<double>{}, Type<double>{}) : run(Type<float>{}, Type<float>{});
}

void gram_loss(TensorView sums, int64_t pairs, int64_t subtracted, const std::vector<double>& normalizers,
               const std::vector<double>& weights, TensorView loss, TensorView terms, int64_t stream) {
  SSLSPEC_CHECK(sums.device != kCpu && normalizers.size() == 3 && weights.size() == 3, kOp,
                ": three normalizers and weights, sums on a CUDA device");
  SSLSPEC_CHECK(loss.dtype == DType::f32 || loss.dtype == DType::f64, kOp, ": loss must be float32 or float64, got ",
                loss.dtype);
  SSLSPEC_CHECK(pairs >= 0 && subtracted >= 0, kOp, ": counts must not be negative");
  check_sums(sums, 0, 2 * pairs + subtracted, sums.device);
  check_dense(kOp, "loss", loss, 0, nullptr, loss.dtype, sums.device);
  check_vector(kOp, "terms", terms, 3, loss.dtype, sums.device);
  const DeviceGuard guard(sums.device);
  const auto run = [&](auto t) {
    using T = typename decltype(t)::type;
    LossArgs<T> p = {
        sums.as<double>(), {pairs, subtracted, sums.shape[0] - 2 * pairs - subtracted}, {}, {}, loss.as<T>(),
        terms.as<T>()};
    for (int i = 0; i < 3; ++i) p.normalizers[i] = normalizers[i], p.weights[i] = weights[i];
    launch("gram_loss", loss_kernel<T>, dim3(1), kThreads, 0, stream, p);
  };
  loss.dtype == DType::f64 ? run(Type<double>{}) : run(Type<float>{});
}

}  // namespace sslspec::cuda

// Products of tall matrices for the eigensolvers, where the blocks are narrow: each row is read once. Wider ones are
// torch's GEMMs (primitives/basis/cuda.py).
//
// Tiling: rows of all V_i, side by side, go to shared memory by asynchronous copies. gram: a tile is copied while the
// one before it is multiplied; a thread owns 4 x 4 elements of G for every kGroups-th row of a tile; a block takes
// every gridDim-th tile and leaves one partial sum, a second kernel adds those in order. combine: a thread owns 4
// columns of 4 rows, which halves the reads of shared memory per product; a row is there before it is written, so Y may
// be a V_i. Memory traffic: one read of every operand (16-byte accesses where the layout allows), one write of Y.
// Precision policy: gram adds the products of a tile in the type of the operands (in double when `exact`) and
// everything above in double; combine runs in the type of the operands.
#include "basis/cuda/basis.h"

#include "gpu/copy.cuh"
#include "gpu/launch.h"
#include "gpu/pack.cuh"

namespace sslspec::cuda {
namespace {

constexpr int kThreads = 256, kStages = 2;
constexpr int kMostParts = 3 * 132;                                     // three blocks of gram on each SM of an H100
constexpr int kLeastThreads = 128, kTilesPerBlock = 4, kPerThread = 4;  // of combine: rows of a thread

template <typename T>
constexpr int kRows = sizeof(T) == 4 ? 64 : 32;
template <typename T>
constexpr int kCombineRows = sizeof(T) == 4 ? 128 : 64;

__host__ __device__ inline int fours(int64_t m) { return static_cast<int>((m + 3) / 4 * 4); }

template <typename T>
struct Term {
  const T* v;  // [n, m]
  int64_t ld;
  int m, at, from;  // first column in shared memory, first row of C or G
  bool wide;        // rows come in packs of 16 bytes
};

template <typename T>
struct Terms {
  Term<T> term[kBasisTerms];
  int count, p, rows;  // p: columns in shared memory, rows: of C or G
};

// Starts to copy rows [first, first + rows) of one block to tile[row * stride + at ..]; zeros beyond n and in the
// padding.
template <typename T>
__device__ void copy_rows(T* tile, int stride, const Term<T>& term, int64_t first, int64_t n, int rows) {
  constexpr int kWide = 16 / sizeof(T);
  const unsigned width = term.wide ? kWide : 1, per_row = (term.wide ? term.m : fours(term.m)) / width;
  for (unsigned e = threadIdx.x; e < rows * per_row; e += blockDim.x) {
    const unsigned row = e / per_row, column = (e - row * per_row) * width;
    const int64_t i = first + row;
    const bool inside = i < n && column < term.m;
    T* to = tile + row * stride + term.at + column;
    const T* from = term.v + (inside ? i * term.ld + column : 0);
    if (term.wide)
      copy16(to, from, inside);
    else
      copy_small<sizeof(T)>(to, from, inside);
  }
}

template <typename T>
struct GramArgs {
  Terms<T> a;
  Term<T> b;  // may be one of a, which is then copied once
  const T* w;
  double *parts, *g;  // [blocks, p, fours(q)], [rows, q]
  int64_t n;
  int q, blocks, stride;  // stride: of a tile's rows; the weights lie behind them
  bool b_is_a;
};

template <typename T, typename Sum>
__global__ void __launch_bounds__(kThreads, sizeof(Sum) == 4 ? 3 : 2)
    gram_parts_kernel(const __grid_constant__ GramArgs<T> args) {
  T* tiles = reinterpret_cast<T*>(dynamic_shared());
  const int q = fours(args.q), p = args.a.p, across = q / 4, places = p / 4 * across,
            size = kRows<T> * (args.stride + 1);
  const int groups = kThreads / places, group = threadIdx.x / places, place = threadIdx.x % places;
  const int left = place / across * 4, right = place % across * 4;
  const int64_t step = static_cast<int64_t>(args.blocks) * kRows<T>;
  const auto copy = [&](int64_t first, T* tile) {
    if (first < args.n) {
      for (int t = 0; t < args.a.count; ++t) copy_rows<T>(tile, args.stride, args.a.term[t], first, args.n, kRows<T>);
      if (!args.b_is_a) copy_rows<T>(tile, args.stride, args.b, first, args.n, kRows<T>);
      if (args.w != nullptr && threadIdx.x < kRows<T>) {
        const int64_t i = first + threadIdx.x;
        copy_small<sizeof(T)>(tile + kRows<T> * args.stride + threadIdx.x, args.w + (i < args.n ? i : 0), i < args.n);
      }
    }
    copy_commit();
  };
  double total[4][4] = {};
  int64_t first = static_cast<int64_t>(blockIdx.x) * kRows<T>;
  copy(first, tiles);
  for (int stage = 0; first < args.n; first += step, stage ^= 1) {
    copy_wait<0>();
    __syncthreads();  // the tile is there, and the one before has been read
    copy(first + step, tiles + (stage ^ 1) * size);
    const T *tile = tiles + stage * size, *weights = tile + kRows<T> * args.stride;
    Sum sum[4][4] = {};
    for (int row = group; row < kRows<T> && group < groups; row += groups) {
      const Pack<T, 4> a = *reinterpret_cast<const Pack<T, 4>*>(tile + row * args.stride + left);
      Pack<T, 4> b = *reinterpret_cast<const Pack<T, 4>*>(tile + row * args.stride + args.b.at + right);
      if (args.w != nullptr) {
        const T weight = weights[row];
#pragma unroll
        for (int j = 0; j < 4; ++j) b.v[j] *= weight;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += static_cast<Sum>(a.v[i]) * static_cast<Sum>(b.v[j]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) total[i][j] += static_cast<double>(sum[i][j]);
  }
  copy_wait<0>();
  __syncthreads();
  double* sums = reinterpret_cast<double*>(dynamic_shared());  // [groups, p, q]
  if (group < groups)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[(group * p + left + i) * q + right + j] = total[i][j];
  __syncthreads();
  for (int e = threadIdx.x; e < p * q; e += kThreads) {
    double all = 0;
    for (int k = 0; k < groups; ++k) all += sums[k * p * q + e];
    args.parts[static_cast<int64_t>(blockIdx.x) * p * q + e] = all;
  }
}

// 32 elements of G per block, eight threads for the parts of each.
template <typename T>
__global__ void __launch_bounds__(kThreads) gram_total_kernel(const __grid_constant__ GramArgs<T> args) {
  __shared__ double sums[kThreads / 32][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, q = fours(args.q), size = args.a.p * q;
  const int e = static_cast<int>(blockIdx.x) * 32 + lane;
  double all = 0;
  if (e < size)
    for (int part = warp; part < args.blocks; part += kThreads / 32)
      all += args.parts[static_cast<int64_t>(part) * size + e];
  sums[warp][lane] = all;
  __syncthreads();
  if (warp != 0 || e >= size || e % q >= args.q) return;
  for (int k = 1; k < kThreads / 32; ++k) all += sums[k][lane];
  for (int t = 0; t < args.a.count; ++t) {
    const Term<T>& term = args.a.term[t];
    const int row = e / q - term.at;
    if (row >= 0 && row < term.m) args.g[static_cast<int64_t>(term.from + row) * args.q + e % q] = all;
  }
}

template <typename T>
struct CombineArgs {
  Terms<T> v;
  const T* c;  // [rows, q]
  T* y;
  int64_t ldy, n;
  int q;
  bool wide;
  T beta;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ CombineArgs<T> args) {
  constexpr int kApart = kCombineRows<T> / kPerThread;  // the rows of a thread are so far from each other
  const int q = fours(args.q), p = args.v.p, across = q / 4;
  const int stride = p + (p / 4 % 2 == 0 ? 4 : 0);  // an odd number of fours: neighbouring rows in other banks
  T *c = reinterpret_cast<T*>(dynamic_shared()), *tile = c + p * q;
  for (int e = threadIdx.x; e < p * q; e += blockDim.x) c[e] = T(0);
  __syncthreads();
  for (int t = 0; t < args.v.count; ++t) {
    const Term<T>& term = args.v.term[t];
    for (int e = threadIdx.x; e < term.m * args.q; e += blockDim.x)
      c[(term.at + e / args.q) * q + e % args.q] = args.c[static_cast<int64_t>(term.from) * args.q + e];
  }
  for (int step = 0; step < kTilesPerBlock; ++step) {
    const int64_t first = (static_cast<int64_t>(blockIdx.x) * kTilesPerBlock + step) * kCombineRows<T>;
    if (first >= args.n) return;
    __syncthreads();
    for (int t = 0; t < args.v.count; ++t) copy_rows<T>(tile, stride, args.v.term[t], first, args.n, kCombineRows<T>);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    for (int e = threadIdx.x; e < kApart * across; e += blockDim.x) {
      const int row = e / across, column = e % across * 4;
      Pack<T, 4> sum[kPerThread] = {};
      for (int k = 0; k < p; k += 4) {
        Pack<T, 4> v[kPerThread];
#pragma unroll
        for (int r = 0; r < kPerThread; ++r)
          v[r] = *reinterpret_cast<const Pack<T, 4>*>(tile + (row + r * kApart) * stride + k);
#pragma unroll
        for (int l = 0; l < 4; ++l) {
          const Pack<T, 4> factor = *reinterpret_cast<const Pack<T, 4>*>(c + (k + l) * q + column);
#pragma unroll
          for (int r = 0; r < kPerThread; ++r)
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[r].v[j] += v[r].v[l] * factor.v[j];
        }
      }
#pragma unroll
      for (int r = 0; r < kPerThread; ++r) {
        const int64_t i = first + row + r * kApart;
        if (i >= args.n) break;
        T* y = args.y + i * args.ldy + column;
        if (args.wide) {
          Pack<T, 4>* out = reinterpret_cast<Pack<T, 4>*>(y);
          if (args.beta != T(0)) {
            const Pack<T, 4> old = *out;
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[r].v[j] += args.beta * old.v[j];
          }
          *out = sum[r];
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (column + j < args.q) y[j] = args.beta != T(0) ? sum[r].v[j] + args.beta * y[j] : sum[r].v[j];
        }
      }
    }
  }
}

// The sequence of the CPU kernel (csrc/basis/cpu/basis.kernel.cpp): four values from each word of splitmix64.
__host__ __device__ inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) random_kernel(T* y, int64_t size, int lead, uint64_t start) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (at >= lead + size) return;
  const uint64_t word = mix(start + static_cast<uint64_t>(at / 4) * 0x9e3779b97f4a7c15u);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (at + k >= lead && at + k < lead + size)
      y[at + k - lead] = static_cast<T>(static_cast<int16_t>(word >> (16 * k))) * static_cast<T>(1.0 / 32768);
}

template <typename T>
Term<T> term_of(const char* op, const char* name, const TensorView& v, int64_t n, DType dtype, int device) {
  check_matrix(op, name, v, n, v.shape[1], dtype, device);
  return {v.as<T>(), v.stride[0], static_cast<int>(v.shape[1]), 0, 0, v.shape[1] % 4 == 0 && packs(v, 16 / sizeof(T))};
}

template <typename T>
Terms<T> terms_of(const char* op, const std::vector<TensorView>& v, int64_t n, DType dtype, int device) {
  SSLSPEC_CHECK(v.size() >= 1 && v.size() <= kBasisTerms, op, ": must get 1 to ", kBasisTerms, " blocks, got ",
                v.size());
  Terms<T> all{};
  for (const TensorView& block : v) {
    Term<T> term = term_of<T>(op, "v", block, n, dtype, device);
    SSLSPEC_CHECK(term.m <= kBasisTall - all.p, op, ": blocks must have at most ", kBasisTall, " columns in all");
    term.at = all.p, term.from = all.rows;
    all.p += fours(term.m), all.rows += term.m;
    all.term[all.count++] = term;
  }
  SSLSPEC_CHECK(all.rows > 0, op, ": blocks must have columns");
  return all;
}

int parts_of(int64_t n) { return static_cast<int>(ceil_div(n, 256) < kMostParts ? ceil_div(n, 256) : kMostParts); }

template <typename T>
void run_gram(const std::vector<TensorView>& a, const TensorView& b, const TensorView& w, const TensorView& g,
              bool exact, const Run& run) {
  constexpr const char* kOp = "basis_gram";
  const int64_t n = b.shape[0];
  GramArgs<T> args{};
  args.a = terms_of<T>(kOp, a, n, b.dtype, b.device);
  args.b = term_of<T>(kOp, "b", b, n, b.dtype, b.device);
  args.q = args.b.m, args.n = n, args.blocks = parts_of(n);
  SSLSPEC_CHECK(args.q >= 1 && args.q <= kBasisNarrow, kOp, ": b must have 1 to ", kBasisNarrow, " columns, got ",
                args.q);
  args.b.at = args.a.p, args.stride = args.a.p + fours(args.q);
  for (int t = 0; t < args.a.count; ++t) {
    const Term<T>& term = args.a.term[t];
    if (term.v == args.b.v && term.ld == args.b.ld && term.m == args.b.m)
      args.b.at = term.at, args.stride = args.a.p, args.b_is_a = true;
  }
  if (w.present()) check_vector(kOp, "w", w, n, b.dtype, b.device);
  check_matrix(kOp, "g", g, args.a.rows, args.q, DType::f64, b.device);
  SSLSPEC_CHECK(args.a.rows <= 1 || g.stride[0] == args.q, kOp, ": g must be contiguous, got row stride ", g.stride[0]);
  check_vector(kOp, "workspace", run.workspace, basis_gram_workspace_size(n, args.a.p, args.q), DType::f64, b.device);
  args.w = w.as<T>(), args.g = g.as<double>(), args.parts = run.workspace.as<double>();
  const int size = args.a.p * fours(args.q), groups = kThreads / (size / 16);
  const size_t rows = kStages * sizeof(T) * kRows<T> * (args.stride + 1), sums = sizeof(double) * groups * size;
  const size_t shared = rows < sums ? sums : rows;
  const dim3 grid(static_cast<unsigned>(args.blocks));
  if (exact)
    launch(kOp, gram_parts_kernel<T, double>, grid, kThreads, shared, run.stream, args);
  else
    launch(kOp, gram_parts_kernel<T, T>, grid, kThreads, shared, run.stream, args);
  launch(kOp, gram_total_kernel<T>, dim3(static_cast<unsigned>(ceil_div(size, 32))), kThreads, 0, run.stream, args);
}

template <typename T>
void run_combine(const TensorView& y, const std::vector<TensorView>& v, const TensorView& c, double beta,
                 int64_t stream) {
  constexpr const char* kOp = "basis_combine";
  CombineArgs<T> args{};
  args.n = y.shape[0];
  args.v = terms_of<T>(kOp, v, args.n, y.dtype, y.device);
  SSLSPEC_CHECK(y.shape[1] >= 1 && y.shape[1] <= kBasisNarrow, kOp, ": y must have 1 to ", kBasisNarrow,
                " columns, got ", y.shape[1]);
  args.q = static_cast<int>(y.shape[1]);
  check_matrix(kOp, "y", y, args.n, args.q, y.dtype, y.device);
  check_matrix(kOp, "c", c, args.v.rows, args.q, y.dtype, y.device);
  SSLSPEC_CHECK(args.v.rows <= 1 || c.stride[0] == args.q, kOp, ": c must be contiguous, got row stride ", c.stride[0]);
  args.c = c.as<T>(), args.y = y.as<T>(), args.ldy = y.stride[0], args.beta = static_cast<T>(beta);
  args.wide = args.q % 4 == 0 && packs(y, 4);  // for float64: two accesses of 16 bytes
  const size_t shared = sizeof(T) * (kCombineRows<T> * (args.v.p + 4) + args.v.p * fours(args.q));
  const int64_t blocks = ceil_div(args.n, kTilesPerBlock * kCombineRows<T>);
  const int work = kCombineRows<T> / kPerThread * (fours(args.q) / 4),
            threads = work < kLeastThreads ? kLeastThreads : work;
  launch(kOp, combine_kernel<T>, dim3(static_cast<unsigned>(blocks)), threads, shared, stream, args);
}

}  // namespace

int64_t basis_gram_workspace_size(int64_t n, int64_t p, int64_t q) { return parts_of(n) * p * fours(q); }

void basis_gram(const std::vector<TensorView>& a, TensorView b, TensorView w, TensorView g, bool exact,
                const Run& run) {
  SSLSPEC_CHECK(b.device != kCpu && b.ndim == 2, "basis_gram: b must be (n, q) on a CUDA device");
  SSLSPEC_CHECK(b.dtype == DType::f32 || b.dtype == DType::f64, "basis_gram: b must be float32 or float64, got ",
                b.dtype);
  const DeviceGuard guard(b.device);
  (b.dtype == DType::f64 ? run_gram<double> : run_gram<float>)(a, b, w, g, exact, run);
}

void basis_combine(TensorView y, const std::vector<TensorView>& v, TensorView c, double beta, int64_t stream) {
  SSLSPEC_CHECK(y.device != kCpu && y.ndim == 2, "basis_combine: y must be (n, q) on a CUDA device");
  SSLSPEC_CHECK(y.dtype == DType::f32 || y.dtype == DType::f64, "basis_combine: y must be float32 or float64, got ",
                y.dtype);
  const DeviceGuard guard(y.device);
  (y.dtype == DType::f64 ? run_combine<double> : run_combine<float>)(y, v, c, beta, stream);
}

void basis_random(TensorView y, int64_t first, uint64_t seed, int64_t stream) {
  constexpr const char* kOp = "basis_random";
  SSLSPEC_CHECK(y.device != kCpu && y.ndim == 2, kOp, ": y must be (n, q) on a CUDA device");
  SSLSPEC_CHECK(y.dtype == DType::f32 || y.dtype == DType::f64, kOp, ": y must be float32 or float64, got ", y.dtype);
  check_matrix(kOp, "y", y, y.shape[0], y.shape[1], y.dtype, y.device);
  SSLSPEC_CHECK(y.shape[0] <= 1 || y.shape[1] == 0 || y.stride[0] == y.shape[1], kOp,
                ": y must be contiguous, got row stride ", y.stride[0]);
  SSLSPEC_CHECK(first >= 0, kOp, ": first must be >= 0, got ", first);
  const DeviceGuard guard(y.device);
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  const int64_t size = y.shape[0] * y.shape[1], before = first * y.shape[1];
  const int lead = static_cast<int>(before % 4);
  const uint64_t start = mix(seed + kStep) + static_cast<uint64_t>(before / 4) * kStep;
  const dim3 grid(static_cast<unsigned>(ceil_div(lead + size, 4 * kThreads)));
  if (y.dtype == DType::f64)
    launch(kOp, random_kernel<double>, grid, kThreads, 0, stream, y.as<double>(), size, lead, start);
  else
    launch(kOp, random_kernel<float>, grid, kThreads, 0, stream, y.as<float>(), size, lead, start);
}

}  // namespace sslspec::cuda

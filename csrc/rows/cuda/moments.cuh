// Moments of slabs of rows, and how a kernel that reads them merges the slabs of a column.
#pragma once
#include "gpu/types.cuh"
#include "rows/cuda/moments.h"

namespace sslspec::cuda {

// n rows cut into slabs of `rows`, the last of which may be shorter.
struct Slabs {
  int64_t n, rows;
  // At least `fewest` rows each. A kernel that merges the slabs of its columns reads all of them in each of its blocks:
  // there are 16 slabs where `d` columns alone make enough blocks for a GPU, up to 128 where they do not.
  static Slabs cut(int64_t n, int64_t d, int64_t fewest) {
    const int64_t wanted = 528 / ceil_div(d, 32), most = wanted < 16 ? 16 : wanted < 128 ? wanted : 128;
    const int64_t rows = ceil_div(ceil_div(n, most), 8) * 8;
    return {n, rows < fewest ? fewest : rows};
  }
  __host__ __device__ int64_t count() const { return ceil_div(n, rows); }
  __device__ __forceinline__ int64_t begin(int64_t slab) const { return slab * rows; }
  __device__ __forceinline__ int64_t end(int64_t slab) const { return slab * rows + rows < n ? slab * rows + rows : n; }
};

inline Slabs moment_slabs(int64_t n, int64_t d) { return Slabs::cut(n, d, 256); }

template <typename T>
struct Moment {
  T count, mean, var;
  __device__ __forceinline__ void add(T value, T inverse) {  // inverse = 1 / (count + 1)
    count += 1;
    const T delta = value - mean;
    mean += delta * inverse;
    var += (delta * (value - mean) - var) * inverse;
  }
  __device__ __forceinline__ void merge(const Moment& other) {
    const T delta = other.mean - mean;
    merge(other, delta, delta);
    mean += delta * fraction(other);
    count += other.count;
  }
  // var alone, of two columns whose means are off by these
  __device__ __forceinline__ void merge(const Moment& other, T delta_x, T delta_y) {
    const T part = fraction(other);
    var += (other.var - var) * part + delta_x * delta_y * (part * (1 - part));
  }
  __device__ __forceinline__ T fraction(const Moment& other) const {
    return other.count == 0 ? T(0) : other.count / (count + other.count);
  }
};

// Operands x, y and their covariance, of more rows, merged into `pair`.
template <typename T>
__device__ __forceinline__ void merge_product(Moment<T> (&pair)[3], const Moment<T>& x, const Moment<T>& y,
                                              const Moment<T>& product) {
  pair[2].count = pair[0].count;
  pair[2].merge(product, x.mean - pair[0].mean, y.mean - pair[1].mean);
  pair[0].merge(x), pair[1].merge(y);
}

// Partial results of slabs: [slabs, operands, 2, d], means relative to the first row.
template <typename In>
struct MomentParts {
  using T = typename Computed<In>::type;
  const In *x, *y;  // the first rows; y may be null
  const T* parts;
  Slabs slabs;
  int64_t d;
  bool product;

  // Of column k of operand 0 (x), 1 (y) or 2 (x - y, or the product: mean 0, and the covariance).
  __device__ __forceinline__ Moment<T> merged(int o, int64_t k) const {
    const int operands = y == nullptr ? 1 : 3;
    const bool covariance = o == 2 && product;
    Moment<T> total{}, pair[3] = {};
    for (int64_t s = 0; s < slabs.count(); ++s) {
      const auto part = [&](int operand) -> Moment<T> {
        const T* at = parts + ((s * operands + operand) * 2) * d + k;
        return {static_cast<T>(slabs.end(s) - slabs.begin(s)), at[0], at[d]};
      };
      if (covariance)
        merge_product(pair, part(0), part(1), part(2));
      else
        total.merge(part(o));
    }
    if (covariance) return {pair[0].count, 0, pair[2].var};
    const T first = widened(o == 1 ? y[k] : x[k]);
    total.mean = (o == 2 ? first - widened(y[k]) : first) + total.mean;
    return total;
  }
};

// Launches the kernel that writes the partial results alone; x, y and parts are checked by the caller.
void moments_of_slabs(const TensorView& x, const TensorView& y, bool product, void* parts, int64_t stream);

}  // namespace sslspec::cuda

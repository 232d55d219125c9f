// What the portable kernels that store a matrix share: where a block is in it, and how it stores a tile, in the type of
// the operands or as three bfloat16 pieces.
#pragma once
#include <type_traits>

#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {

template <typename MathMode, int kPieceCount>
struct WeightsTraits {
  using Math = MathMode;
  static constexpr int kPieces = kPieceCount;
  using Elem = std::conditional_t<kPieces == 1, typename Math::Elem, __nv_bfloat16>;
  static constexpr int kSpan = 8;
  static constexpr int kBlocks = sizeof(typename Math::Operand4) > 16 ? 1 : 2;
};

__device__ __forceinline__ void store_pair(__nv_bfloat16* at, float a, float b, bool both, bool aligned) {
  if (both && aligned) {
    *reinterpret_cast<__nv_bfloat162*>(at) = __floats2bfloat162_rn(a, b);
    return;
  }
  at[0] = __float2bfloat16(a);
  if (both) at[1] = __float2bfloat16(b);
}
__device__ __forceinline__ void store_pair(float* at, float a, float b, bool both, bool aligned) {
  if (both && aligned) {
    *reinterpret_cast<float2*>(at) = make_float2(a, b);
    return;
  }
  at[0] = a;
  if (both) at[1] = b;
}

template <typename Traits>
__device__ __forceinline__ void store_pieces(typename Traits::Elem* at, int64_t step, float a, float b, bool both,
                                             bool aligned) {
  store_pair(at, a, b, both, aligned);
#pragma unroll
  for (int piece = 1; piece < Traits::kPieces; ++piece) {
    a -= __bfloat162float(__float2bfloat16(a)), b -= __bfloat162float(__float2bfloat16(b));  // exact
    store_pair(at + piece * step, a, b, both, aligned);
  }
}

// The matrix of a chunk of rows.
struct MatrixOut {
  void* data;  // [rows, m] per piece
  int64_t pitch, piece_step, row0;
  bool resident;  // TilePipe::keeps_x

  // x: of the problem; other: what a block keeps in shared memory besides panels
  MatrixOut(const WeightRows& w, const Rows& x, size_t other)
      : data(w.data), pitch(w.pitch), piece_step(w.rows * w.pitch), row0(w.row0),
        resident(TilePipe::keeps_x(x.bytes, other, shared_limit())) {}
};

// A block of the grid below: `span` tiles of a row of tiles. Shared: what it keeps in shared memory besides panels.
template <typename Shared>
struct MatrixBlock {
  TilePipe pipe;
  Shared& shared;
  int64_t i0;           // its first row, of the problem
  int64_t first, last;  // its tiles
  bool aligned;         // pairs of entries

  __device__ __forceinline__ MatrixBlock(const MatrixOut& out, const Rows& x, int64_t columns, int64_t span)
      : pipe(dynamic_shared(), x.bytes, out.resident),
        shared(*reinterpret_cast<Shared*>(dynamic_shared() + TilePipe::shared_bytes(x.bytes, out.resident))),
        i0(out.row0 + static_cast<int64_t>(blockIdx.y) * TileTraits::kRows),
        first(static_cast<int64_t>(blockIdx.x) * span), last(min(first + span, ceil_div(columns, TileTraits::kRows))),
        aligned(out.pitch % 2 == 0) {}

  // Entries j and j + 1 of a row of the chunk, of as many as there are columns.
  template <typename Traits>
  __device__ __forceinline__ void store(const MatrixOut& out, int64_t row, int64_t j, int64_t columns,
                                        const float (&value)[2]) const {
    store_pieces<Traits>(static_cast<typename Traits::Elem*>(out.data) + row * out.pitch + j, out.piece_step, value[0],
                         value[1], j + 1 < columns, aligned);
  }
};

struct MatrixGrid {
  int64_t rows, columns, span;
  operator dim3() const {
    return dim3(static_cast<unsigned>(ceil_div(ceil_div(columns, TileTraits::kRows), span)),
                static_cast<unsigned>(ceil_div(rows, TileTraits::kRows)));
  }
};

template <typename Shared, typename Kernel, typename... Args>
void launch_matrix(const char* name, Kernel kernel, const MatrixGrid& grid, const MatrixOut& out, const Rows& x,
                   int64_t stream, const Args&... args) {
  launch(name, kernel, grid, TileTraits::kThreads, TilePipe::shared_bytes(x.bytes, out.resident) + sizeof(Shared),
         stream, args...);
}

// run(WeightsTraits) of the products of these rows.
template <typename Run>
void with_weights_traits(DType rows, Precision precision, int pieces, const Run& run) {
  const bool fast = precision == Precision::fast;
  if (rows == DType::bf16) return run(WeightsTraits<Bf16, 1>{});
  if (pieces == 1) return fast ? run(WeightsTraits<Tf32, 1>{}) : run(WeightsTraits<Tf32x3, 1>{});
  fast ? run(WeightsTraits<Tf32, kWeightPieces>{}) : run(WeightsTraits<Tf32x3, kWeightPieces>{});
}

}  // namespace sslspec::cuda

// Statistics of wide rows on Hopper: chunks of rows, whose tiles of 128 x 128 statistics_sm90a.cu multiplies and sums,
// gathered into the partial results of PairwiseGrid. Plain CUDA, so that the emulator runs it too.
#include <algorithm>

#include "pairwise/cuda/hopper/hopper.h"
#include "pairwise/cuda/pairs.cuh"

namespace sslspec::cuda {
namespace {

// Tiles first .. first + tiles (of 128) of the Hopper pass, [tiles, pitch] sums of `count` rows or columns, into
// partial results of `span` tiles each; block row 0 is the slot of tile `first`. A slot that an earlier chunk has begun
// goes on from there. flushed: null, or of statistics that are made again.
__global__ void __launch_bounds__(TileTraits::kThreads)
    gather_kernel(const int32_t* flushed, const Partial* sums, int64_t pitch, int64_t first, int64_t tiles,
                  int64_t count, int64_t span, Partial* parts, int64_t step) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * TileTraits::kThreads + threadIdx.x,
                slot = first / span + blockIdx.y;
  if (i >= count || (flushed != nullptr && *flushed == 0)) return;
  Partial& out = parts[slot * step + i];
  const int64_t begin = max(slot * span, first), end = min((slot + 1) * span, first + tiles);
  Partial total = begin > slot * span ? out : sums[(begin - first) * pitch + i];
  for (int64_t tile = begin > slot * span ? begin : begin + 1; tile < end; ++tile)
    total = merge(total, sums[(tile - first) * pitch + i]);
  out = total;
}

#ifndef SSLSPEC_TILE_SUMS  // the emulator's tests use few, so that small problems need several chunks
#define SSLSPEC_TILE_SUMS (8 << 20)
#endif

// Rows of a chunk: 64 MiB of sums, so that memory stays linear. Each row takes part in as many row sums as there are
// tiles of columns, and in 1 / 128 of as many column sums as there are columns. A symmetric problem multiplies the rows
// of a chunk with each other and with those after them only: eighths do 9 / 16 of the work of the whole, but a small
// problem is done before the launches of several chunks would be.
#ifndef SSLSPEC_SYMMETRIC_ROWS  // the emulator's tests use few
#define SSLSPEC_SYMMETRIC_ROWS 4096
#endif
int64_t chunk_rows(int64_t n, int64_t m, bool symmetric) {
  const int64_t fitting = SSLSPEC_TILE_SUMS / (2 * ceil_div(m, TileTraits::kRows)) / TileTraits::kRows;
  const bool cut = symmetric && n > 2 * SSLSPEC_SYMMETRIC_ROWS;
  const int64_t most = ceil_div(cut ? std::max<int64_t>(ceil_div(n, 8), SSLSPEC_SYMMETRIC_ROWS) : n, TileTraits::kRows);
  return TileTraits::kRows * (fitting < 1 ? 1 : fitting < most ? fitting : most);
}

}  // namespace

int64_t hopper_statistics_size(int64_t n, int64_t m, bool symmetric, bool columns) {
  const int64_t rows = chunk_rows(n, m, symmetric);
  return ceil_div(m, TileTraits::kRows) * rows + (symmetric || columns ? ceil_div(rows, TileTraits::kRows) * m : 0);
}

void hopper_statistics(const PairwiseProblem& p, Partial* x_parts, Partial* y_parts, Partial* row_sums) {
  const DeviceGuard guard(p.device);
  constexpr int64_t kTile = TileTraits::kRows;
  const int64_t n = p.x.shape[0], m = p.y.shape[0], step = chunk_rows(n, m, p.symmetric),
                span = PairwiseGrid(n, m).span;
  Partial* columns_of = p.symmetric ? x_parts : y_parts;
  Partial* column_sums = columns_of == nullptr ? nullptr : row_sums + ceil_div(m, kTile) * step;
  const auto gather = [&](const Partial* sums, int64_t pitch, int64_t first, int64_t tiles, int64_t count,
                          Partial* parts, int64_t stride) {
    const dim3 grid(static_cast<unsigned>(ceil_div(count, TileTraits::kThreads)),
                    static_cast<unsigned>(ceil_div(first + tiles, span) - first / span));
    launch("pairwise_gather", gather_kernel, grid, TileTraits::kThreads, 0, p.stream, p.again ? p.flushed : nullptr,
           sums, pitch, first, tiles, count, span, parts, stride);
  };
  for (int64_t row0 = 0; row0 < n; row0 += step) {
    const int64_t rows = n - row0 < step ? n - row0 : step;
    const int64_t col0 = p.symmetric ? row0 : 0, col_begin = p.symmetric ? row0 + rows : 0;
    pairwise_statistics_sm90a(
        p, {row0, col0, static_cast<int>(rows), static_cast<const float*>(p.bias), row_sums, column_sums, col_begin});
    gather(row_sums, rows, col0 / kTile, ceil_div(m - col0, kTile), rows, x_parts + row0, n);
    if (column_sums != nullptr)
      gather(column_sums + (col_begin - col0), m - col0, row0 / kTile, ceil_div(rows, kTile), m - col_begin,
             columns_of + col_begin, m);
  }
}

}  // namespace sslspec::cuda

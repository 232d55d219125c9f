// A 128 x 128 tile of X Y^T by one block of 8 warps (2 x 4, each 64 x 32), operands streamed through shared memory in
// panels of 128 rows x 64 bytes (32 bf16 or 16 float) with cp.async.
//
// Shared memory: a panel row takes 80 bytes, so that the eight 16-byte rows of an ldmatrix fall into different banks
// (80 bytes = 20 words; 20 r mod 32 are distinct multiples of 4). Y always goes through a ring of kStages panels; X
// stays resident over a row of tiles when it has at most kResidentPanels panels and they fit (99 KB a block on some
// GPUs), otherwise it shares the ring. The sums are the same either way.
#pragma once
#include "gpu/copy.cuh"
#include "gpu/modes.cuh"

namespace sslspec::cuda {

struct TileTraits {
  static constexpr int kRows = 128, kThreads = 256, kWarps = 8;
  static constexpr int kChunkBytes = 64, kPitch = 80, kStages = 3;
  static constexpr int kPanelBytes = kRows * kPitch;
  static constexpr int kResidentPanels = 8;
  static_assert(kPitch % 16 == 0 && kPitch >= kChunkBytes);
};

struct Rows {  // a row-major matrix as bytes; every row starts at a multiple of 16
  const unsigned char* data;
  int64_t count;  // rows
  int64_t pitch;  // bytes from row to row
  int bytes;      // bytes in a row, a multiple of 16
};

// How one block walks over tiles: shared memory and the panels of each step.
struct TilePipe {
  unsigned char* x_panels;  // resident: all panels of X; else kStages
  unsigned char* y_panels;  // kStages
  int chunks;               // panels per tile
  bool resident;

  static __host__ __device__ int chunk_count(int bytes) {
    return (bytes + TileTraits::kChunkBytes - 1) / TileTraits::kChunkBytes;
  }
  static __host__ __device__ size_t shared_bytes(int bytes, bool resident) {
    return static_cast<size_t>((resident ? chunk_count(bytes) : TileTraits::kStages) + TileTraits::kStages) *
           TileTraits::kPanelBytes;
  }
  // other: what the kernel needs besides; limit: of the device
  static bool keeps_x(int bytes, size_t other, int limit) {
    return chunk_count(bytes) <= TileTraits::kResidentPanels &&
           shared_bytes(bytes, true) + other <= static_cast<size_t>(limit);
  }
  __device__ TilePipe(unsigned char* shared, int bytes, bool resident)
      : x_panels(shared), chunks(chunk_count(bytes)), resident(resident) {
    y_panels = shared + (resident ? chunks : TileTraits::kStages) * TileTraits::kPanelBytes;
  }

  // 512 pieces of 16 bytes, two per thread
  static __device__ __forceinline__ void load(unsigned char* panel, const Rows& x, int64_t row0, int chunk) {
    const int piece = threadIdx.x % 4, byte = chunk * TileTraits::kChunkBytes + piece * 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = static_cast<int>(threadIdx.x) / 4 + half * 64;
      const bool valid = row0 + row < x.count && byte < x.bytes;
      const unsigned char* source = valid ? x.data + (row0 + row) * x.pitch + byte : x.data;
      copy16(panel + row * TileTraits::kPitch + piece * 16, source, valid);
    }
  }

  // Step s of a row of tiles: chunk s % chunks of the tile whose Y rows start at y0 + 128 (s / chunks).
  __device__ __forceinline__ void load_step(const Rows& x, int64_t x0, const Rows& y, int64_t y0, int step) const {
    const int slot = step % TileTraits::kStages, chunk = step % chunks;
    load(y_panels + slot * TileTraits::kPanelBytes, y, y0 + static_cast<int64_t>(step / chunks) * TileTraits::kRows,
         chunk);
    if (!resident) load(x_panels + slot * TileTraits::kPanelBytes, x, x0, chunk);
  }

  // Computes `tiles` neighbouring tiles, rows x0.. of X against rows y0.. of Y, and calls done(j, acc) after tile j.
  // acc[m][n] is the accumulator of rows row_of(m, .) and columns column_of(n, .). All threads must call it.
  template <typename Math, typename Done>
  __device__ __forceinline__ void run(const Rows& x, int64_t x0, const Rows& y, int64_t y0, int tiles,
                                      Done&& done) const {
    const int steps = tiles * chunks;
    __syncthreads();  // the panels of the previous call are free
    if (resident)
      for (int c = 0; c < chunks; ++c) load(x_panels + c * TileTraits::kPanelBytes, x, x0, c);
    for (int s = 0; s < TileTraits::kStages - 1; ++s) {
      if (s < steps) load_step(x, x0, y, y0, s);
      copy_commit();
    }
    float acc[4][4][4];
    int step = 0;
    for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) acc[m][n][e] = 0;
      for (int chunk = 0; chunk < chunks; ++chunk, ++step) {
        copy_wait<TileTraits::kStages - 2>();  // this thread's copies of `step` have landed
        __syncthreads();                       // everybody's have, and the slot of step - 1 is free
        if (step + TileTraits::kStages - 1 < steps) load_step(x, x0, y, y0, step + TileTraits::kStages - 1);
        copy_commit();
        const int slot = step % TileTraits::kStages;
        multiply<Math>(acc, x_panels + (resident ? chunk : slot) * TileTraits::kPanelBytes,
                       y_panels + slot * TileTraits::kPanelBytes);
      }
      done(tile, acc);
    }
    copy_wait<0>();
  }

  template <typename Math>
  static __device__ __forceinline__ void multiply(float (&acc)[4][4][4], const unsigned char* x,
                                                  const unsigned char* y) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // X: matrices are (rows 0-7, 8-15) x (first, second 16 bytes); Y: two 8-row tiles x (first, second 16 bytes)
    const unsigned char* xp = x + (warp / 4 * 64 + lane % 16) * TileTraits::kPitch + lane / 16 * 16;
    const unsigned char* yp = y + (warp % 4 * 32 + lane / 16 * 8 + lane % 8) * TileTraits::kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < TileTraits::kChunkBytes; k += 32) {
      typename Math::Operand4 right[2];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        uint32_t raw[4];
        ldmatrix(raw, yp + n * 16 * TileTraits::kPitch + k);
        right[n] = Math::operand(raw);
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t raw[4];
        ldmatrix(raw, xp + m * 16 * TileTraits::kPitch + k);
        const typename Math::Operand4 left = Math::operand(raw);
#pragma unroll
        for (int n = 0; n < 4; ++n) Math::multiply(acc[m][n], left, right[n / 2], n % 2);
      }
    }
  }

  // Position inside the tile of acc[m][n][2 h + e]: row (m, h), column (n, e).
  static __device__ __forceinline__ int row_of(int m, int h) {
    return threadIdx.x / 32 / 4 * 64 + m * 16 + threadIdx.x % 32 / 4 + h * 8;
  }
  static __device__ __forceinline__ int column_of(int n, int e) {
    return threadIdx.x / 32 % 4 * 32 + n * 8 + threadIdx.x % 4 * 2 + e;
  }
};

}  // namespace sslspec::cuda

// Deterministic schedules over pairs of row blocks. In every round each block occurs at most once on either side, so
// tasks of one round may update the statistics and gradients of both of their blocks without locks, and every output
// receives its contributions in an order that depends on the shapes alone.
#pragma once
#include "cpu/parallel.h"

namespace sslspec::cpu {
namespace {

// Cuts n rows into blocks of whole 48-row units (every kCols of tile.h divides 48), at most kBlock rows each. A count
// divisible by 4 gives every round of the schedules below an even number of equal tasks; small problems take smaller
// blocks so that a few cores have work in every round.
struct Blocks {
  static constexpr int64_t kUnit = 48;
  int64_t n, units, count;

  explicit Blocks(int64_t rows) : n(rows), units((rows + kUnit - 1) / kUnit) {
    const int64_t per_block = n <= 2048 ? 2 : 4;
    count = ((units + per_block - 1) / per_block + 3) / 4 * 4;
    if (count > units) count = units;
  }
  int64_t begin(int64_t block) const {
    const int64_t row = units * block / (count > 0 ? count : 1) * kUnit;
    return row < n ? row : n;
  }
  int64_t size(int64_t block) const { return begin(block + 1) - begin(block); }
};

// All unordered pairs of `blocks`, diagonal included: f(i, j), i < j as in a round-robin tournament (circle method).
template <typename F>
void for_symmetric_pairs(int64_t blocks, int threads, const F& f) {
  parallel_for(blocks, threads, [&](int64_t i) { f(i, i); });
  const int64_t teams = blocks + blocks % 2;  // an odd number of blocks plays against a bye
  parallel_rounds(teams - 1, teams / 2, threads, [&](int64_t round, int64_t k) {
    const int64_t circle = teams - 1;
    int64_t i = k == 0 ? teams - 1 : (round + k) % circle;
    int64_t j = (round + circle - k) % circle;
    if (i >= blocks || j >= blocks) return;
    if (i < j) f(i, j); else f(j, i);
  });
}

// All pairs (i, j) of row blocks and column blocks: round r pairs i with (i + r) mod max(rows, columns).
template <typename F>
void for_all_pairs(int64_t row_blocks, int64_t column_blocks, int threads, const F& f) {
  const int64_t wide = row_blocks > column_blocks ? row_blocks : column_blocks;
  parallel_rounds(wide, row_blocks, threads, [&](int64_t round, int64_t i) {
    const int64_t j = (i + round) % wide;
    if (j < column_blocks) f(i, j);
  });
}

}  // namespace
}  // namespace sslspec::cpu

// Deterministic schedules over pairs of row blocks. No two tasks of one round share a block on either side, so they
// update the statistics and gradients of both of their blocks without locks, and every output receives its
// contributions in an order that depends on the shapes alone.
//
// Many blocks are paired by groups of kGroup neighbours: a thread that walks through kGroup x kGroup pairs of two groups
// finds one of the two blocks still in its L2 cache (measured on 8192 x 128, forward + backward: 15 % less time). Where
// there are more threads than pairs of groups, the anti-diagonals of those kGroup x kGroup pairs are shared out instead:
// the same order for every block, hence the same bits.
#pragma once
#include "cpu/parallel.h"
#include <cstdlib>

namespace sslspec::cpu {
namespace {

// Cuts n rows into blocks of whole 48-row units (every kCols of tile.h divides 48), at most kBlock rows each. A count
// divisible by 4 (by 4 groups for large n) gives every round of the schedules below an even number of equal tasks; small
// problems take smaller blocks so that a few cores have work in every round.
struct Blocks {
  static constexpr int64_t kUnit = 48;
  int64_t n, units, count;

  explicit Blocks(int64_t rows) : n(rows), units((rows + kUnit - 1) / kUnit) {
    const int64_t per_block = n <= 2048 ? 2 : 4, multiple = n <= 6144 ? 4 : 16;
    count = ((units + per_block - 1) / per_block + multiple - 1) / multiple * multiple;
    if (count > units) count = units;
  }
  int64_t begin(int64_t block) const {
    const int64_t row = units * block / (count > 0 ? count : 1) * kUnit;
    return row < n ? row : n;
  }
  int64_t size(int64_t block) const { return begin(block + 1) - begin(block); }
};

constexpr int64_t kGroup = 4;
inline int64_t group_size(int64_t blocks) { return blocks >= 32 ? kGroup : 1; }

// `tasks` pairs of groups in each of `rounds` rounds; cell(round, task, a, b) is the pair of their members a and b.
template <typename F>
void for_group_pairs(int64_t rounds, int64_t tasks, int64_t group, int threads, const F& cell) {
  if (threads <= tasks || group == 1) {
    parallel_rounds(rounds, tasks, threads, [&](int64_t round, int64_t task) {
      for (int64_t a = 0; a < group; ++a)
        for (int64_t b = 0; b < group; ++b) cell(round, task, a, b);
    });
  } else {
    const int64_t steps = 2 * group - 1;
    parallel_rounds(rounds * steps, tasks * group, threads, [&](int64_t step, int64_t t) {
      const int64_t a = t % group, b = step % steps - a;
      if (0 <= b && b < group) cell(step / steps, t / group, a, b);
    });
  }
}

// All unordered pairs of `blocks`, diagonal included: f(i, j), i <= j; groups meet as in a round-robin tournament
// (circle method).
template <typename F>
void for_symmetric_pairs(int64_t blocks, int threads, const F& f) {
  const int64_t group = group_size(blocks), groups = (blocks + group - 1) / group;
  const auto meet = [&](int64_t i, int64_t j) {
    if (i <= j && j < blocks) f(i, j);
  };
  for_group_pairs(1, groups, group, threads, [&](int64_t, int64_t g, int64_t a, int64_t b) {
    meet(g * group + a, g * group + b);
  });
  const int64_t teams = groups + groups % 2, circle = teams - 1;  // an odd number of groups plays against a bye
  for_group_pairs(circle, teams / 2, group, threads, [&](int64_t round, int64_t k, int64_t a, int64_t b) {
    const int64_t x = k == 0 ? circle : (round + k) % circle, y = (round + circle - k) % circle;
    meet((x < y ? x : y) * group + a, (x < y ? y : x) * group + b);
  });
}

// All pairs (i, j) of row blocks and column blocks: round r pairs group g with group (g + r) mod max(rows, columns).
template <typename F>
void for_all_pairs(int64_t row_blocks, int64_t column_blocks, int threads, const F& f) {
  const int64_t group = group_size(row_blocks < column_blocks ? row_blocks : column_blocks);
  const int64_t row_groups = (row_blocks + group - 1) / group, column_groups = (column_blocks + group - 1) / group;
  const int64_t wide = row_groups > column_groups ? row_groups : column_groups;
  for_group_pairs(wide, row_groups, group, threads, [&](int64_t round, int64_t g, int64_t a, int64_t b) {
    const int64_t i = g * group + a, j = (g + round) % wide * group + b;
    if (i < row_blocks && j < column_blocks) f(i, j);
  });
}

}  // namespace
}  // namespace sslspec::cpu

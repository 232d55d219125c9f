// Deterministic schedules over pairs of row blocks. A pair updates the statistics and gradients of both of its blocks;
// the pairs of one block run one after the other in an order that depends on the shapes alone, so nothing is locked and
// results are bitwise equal for any number of threads.
//
// Many blocks are paired by groups of neighbours: a thread that walks through all pairs of two groups finds one of the
// two blocks still in its L2 cache (measured on 8192 x 128, forward + backward: 15 % less time with groups of four).
// Where there are more threads than pairs of groups, the anti-diagonals of those pairs are shared out instead: the same
// order for every block, hence the same bits. Fewer blocks take smaller groups, which leave work for as many threads.
//
// There is no barrier. Each block counts the pairs that it has been through, and a pair waits until both of its blocks
// have been through all that come before: a thread that is late delays only those who need its blocks. Pairs are handed
// out in the order of the schedule and wait only for earlier ones, so some thread can always go on.
#pragma once
#include "simd/memory.h"
#include "simd/parallel.h"
#include "simd/scratch.h"
#include "simd/subnormal.h"

namespace sslspec::cpu {
namespace {

// Cuts n rows into blocks of whole 48-row units (every kCols of simd/tile.h divides 48), at most kBlock rows each. A
// count divisible by 4 (by 4 groups for large n) gives every round of the schedules below an even number of equal
// tasks; small problems take smaller blocks so that a few cores have work. So do few rows that are paired with
// themselves: the pair of a block with itself makes each product twice, and four blocks of one or two units keep two
// threads waiting for each other.
struct Blocks {
  static constexpr int64_t kUnit = 48;
  int64_t n, units, count;

  explicit Blocks(int64_t rows, bool symmetric = false) : n(rows), units((rows + kUnit - 1) / kUnit) {
    const int64_t per_block = symmetric && units <= 6 ? 1 : n <= 2048 ? 2 : 4, multiple = n <= 6144 ? 4 : 16;
    count = ((units + per_block - 1) / per_block + multiple - 1) / multiple * multiple;
    if (count > units) count = units;
  }
  int64_t begin(int64_t block) const {
    const int64_t row = units * block / (count > 0 ? count : 1) * kUnit;
    return row < n ? row : n;
  }
  int64_t size(int64_t block) const { return begin(block + 1) - begin(block); }
  int64_t of_unit(int64_t unit) const { return ((unit + 1) * count - 1) / units; }
};

inline int64_t group_size(int64_t blocks) { return blocks >= 32 ? 4 : blocks >= 16 ? 2 : 1; }

// Groups x and y meet; turn_x and turn_y say how many meetings each has had before.
struct Meeting {
  int64_t x, turn_x, y, turn_y;
};

// `count` meetings in each of `rounds` rounds, meeting(round, k), no group twice in one round; x == y is a group with
// itself. f(i, j) for all pairs of their members, i < j within a group; the numbers of blocks are below `ids`.
template <typename M, typename F>
void for_meetings(int64_t rounds, int64_t count, int64_t group, int64_t ids, int threads, const M& meeting,
                  const F& f) {
  if (count == 0) return;
  const size_t bytes = static_cast<size_t>(ids) * sizeof(int64_t);
  int64_t* been = static_cast<int64_t*>(scratch(3, bytes));  // pairs that each block has been through
  zero(been, ids);
  OutOfMemory memory;
  const auto cell = [&](const Meeting& m, int64_t a, int64_t b) {
    const int64_t i = m.x * group + a, j = m.y * group + b;
    if (i > j && m.x == m.y) return;
    Team::wait(been + i, m.turn_x * group + b);
    if (i != j) Team::wait(been + j, m.turn_y * group + a);
    memory.catch_in([&] { f(i, j); });  // the pairs behind this one wait for its count in any case
    Team::count(been + i);
    if (i != j) Team::count(been + j);
  };
  const bool split = threads > count;  // by anti-diagonals
  const int64_t steps = split ? 2 * group - 1 : 1, tasks = split ? count * group : count;
  int64_t next = 0;
  parallel_team(threads, [&](int) {
    const FlushSubnormals flush;
    for (;;) {
      const int64_t t = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED), round = t / (steps * tasks);
      if (round >= rounds) return;
      if (split) {
        const int64_t a = t % group, b = t / tasks % steps - a;
        if (0 <= b && b < group) cell(meeting(round, t % tasks / group), a, b);
      } else {
        const Meeting m = meeting(round, t % tasks);
        for (int64_t a = 0; a < group; ++a)
          for (int64_t b = 0; b < group; ++b) cell(m, a, b);
      }
    }
  });
  memory.rethrow();
}

// All unordered pairs of `blocks`, diagonal included: f(i, j), i <= j; first every group with itself, half of the
// groups in a round, then all groups as in a round-robin tournament (circle method).
template <typename F>
void for_symmetric_pairs(int64_t blocks, int threads, const F& f) {
  const int64_t group = group_size(blocks), groups = (blocks + group - 1) / group;
  const int64_t teams = groups + groups % 2, half = teams / 2, circle = teams - 1;  // an odd team has a bye
  const auto meeting = [&](int64_t round, int64_t k) -> Meeting {
    if (round < 2) return {round * half + k, 0, round * half + k, 0};
    const int64_t turn = round - 1;
    const int64_t x = k == 0 ? circle : (turn + k) % circle, y = (turn + circle - k) % circle;
    return x < y ? Meeting{x, turn, y, turn} : Meeting{y, turn, x, turn};
  };
  for_meetings(circle + 2, half, group, teams * group, threads, meeting, [&](int64_t i, int64_t j) {
    if (j < blocks) f(i, j);
  });
}

// All pairs (i, j) of row blocks and column blocks: round r pairs group g of the shorter side with group (g + r) mod
// long of the longer one.
template <typename F>
void for_all_pairs(int64_t row_blocks, int64_t column_blocks, int threads, const F& f) {
  const bool flat = row_blocks <= column_blocks;
  const int64_t few = flat ? row_blocks : column_blocks, many = flat ? column_blocks : row_blocks;
  const int64_t group = group_size(few), few_groups = (few + group - 1) / group,
                many_groups = (many + group - 1) / group;
  const auto meeting = [&](int64_t round, int64_t g) -> Meeting {
    const int64_t c = (g + round) % many_groups;
    // c meets the groups c, c - 1, ... as far as they exist, and after round c those from the other end
    const int64_t start = c < few_groups ? 0 : c - few_groups + 1;
    const int64_t turn = round <= c ? round - start : (c + 1 - start) + round - (many_groups + c + 1 - few_groups);
    return {g, round, few_groups + c, turn};
  };
  for_meetings(many_groups, few_groups, group, (few_groups + many_groups) * group, threads, meeting,
               [&](int64_t i, int64_t k) {
                 const int64_t j = k - few_groups * group;
                 if (i < few && j < many) flat ? f(i, j) : f(j, i);
               });
}

// f(other) for all blocks that a block meets in for_symmetric_pairs, itself included, in the same order.
template <typename F>
void for_partners(int64_t blocks, int64_t block, const F& f) {
  const int64_t group = group_size(blocks), groups = (blocks + group - 1) / group;
  const int64_t circle = groups + groups % 2 - 1, own = block / group;
  const auto members = [&](int64_t of) {
    for (int64_t k = of * group; k < of * group + group && k < blocks; ++k) f(k);
  };
  members(own);
  for (int64_t turn = 1; turn <= circle; ++turn) {
    const int64_t bye = turn % circle;
    members(own == circle ? bye : own == bye ? circle : (2 * turn - own + circle) % circle);
  }
}

// The same for a row block (or, with `column`, a column block) of for_all_pairs and the blocks of the other side.
template <typename F>
void for_partners(int64_t row_blocks, int64_t column_blocks, int64_t block, bool column, const F& f) {
  const int64_t own = column ? column_blocks : row_blocks, others = column ? row_blocks : column_blocks;
  const bool of_few = own < others || (own == others && !column);
  const int64_t few = of_few ? own : others, many = of_few ? others : own;
  const int64_t group = group_size(few), few_groups = (few + group - 1) / group,
                many_groups = (many + group - 1) / group, g = block / group;
  for (int64_t round = 0; round < many_groups; ++round) {
    const int64_t other = of_few ? (g + round) % many_groups : (g - round + many_groups) % many_groups;
    if (!of_few && other >= few_groups) continue;
    for (int64_t k = other * group; k < other * group + group && k < others; ++k) f(k);
  }
}

// How the work on all pairs is divided: into pairs of blocks, or, where those are too few for the threads, into units of
// rows and columns, each for itself. A unit waits for no other, but makes the products and weights of a pair for one of
// its sides only, so that all units together make them twice.
struct PairTasks {
  bool units;
  int64_t at_once;  // tasks that can be under way at the same time

  PairTasks(const Blocks& rows, const Blocks& cols, bool symmetric, bool columns, int threads) {
    const int64_t few = symmetric || rows.count < cols.count ? rows.count : cols.count, group = group_size(few);
    const int64_t groups = (few + group - 1) / group;
    at_once = (symmetric ? (groups + groups % 2) / 2 : groups) * group;
    units = threads > 2 && threads >= 2 * at_once;
    if (units) at_once = rows.units + (symmetric || !columns ? 0 : cols.units);
  }
};

}  // namespace
}  // namespace sslspec::cpu

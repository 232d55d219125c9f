// Work is cut into tasks by the problem size alone, never by the number of threads, and no two tasks of one
// parallel_for write the same output: results are bitwise equal for any thread count.
#pragma once
#include <cstdint>
#include <new>

#include "simd/team.h"

namespace sslspec::cpu {
namespace {

// The tasks that one thread starts with, on a cache line of their own.
struct alignas(64) TaskRange {
  int64_t next, end;
};
constexpr int kMostThreads = 256;

// Memory for scratch (scratch.h) may run out in any thread. An exception that leaves a parallel region ends the
// process, so it is caught inside and thrown again behind the region.
class OutOfMemory {
 public:
  template <typename F>
  void catch_in(const F& f) {
    try {
      f();
    } catch (const std::bad_alloc&) {
      __atomic_store_n(&happened_, 1, __ATOMIC_RELAXED);
    }
  }
  void rethrow() const {
    if (happened_) throw std::bad_alloc();
  }

 private:
  int happened_ = 0;
};

// f(thread) on the threads of the team that come before the work is through; they divide it themselves
// (pairwise/cpu/pair_schedule.h). f throws nothing.
template <typename F>
void parallel_team(int threads, const F& f) {
  if (threads <= 1) return f(0);
  in_team(threads, [&] {
    Team::current()->run([](void* job, int thread) { (*static_cast<const F*>(job))(thread); }, const_cast<F*>(&f));
  });
}

// Each thread works through a contiguous range of the tasks, then helps with what the others have left: neighbouring
// tasks mostly write the same pages, and threads that touch new memory side by side would clear each page twice.
template <typename F>
void parallel_for(int64_t tasks, int threads, const F& f) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads > kMostThreads) threads = kMostThreads;
  if (threads <= 1) {
    for (int64_t t = 0; t < tasks; ++t) f(t);
    return;
  }
  TaskRange ranges[kMostThreads];
  for (int s = 0; s < threads; ++s) ranges[s] = {tasks * s / threads, tasks * (s + 1) / threads};
  OutOfMemory memory;
  parallel_team(threads, [&](int thread) {
    memory.catch_in([&] {
      for (int s = 0; s < threads; ++s) {
        TaskRange& range = ranges[(thread + s) % threads];
        for (int64_t t; (t = __atomic_fetch_add(&range.next, 1, __ATOMIC_RELAXED)) < range.end;) f(t);
      }
    });
  });
  memory.rethrow();
}

constexpr int64_t kTaskRows = 64;

// f(first, end) for the rows [0, n), a task being kTaskRows of them
template <typename F>
void for_row_ranges(int64_t n, int threads, const F& f) {
  parallel_for((n + kTaskRows - 1) / kTaskRows, threads,
               [&](int64_t t) { f(t * kTaskRows, (t + 1) * kTaskRows < n ? (t + 1) * kTaskRows : n); });
}

}  // namespace
}  // namespace sslspec::cpu

// The only place that says OpenMP. Work is cut into tasks by the problem size alone, never by the number of threads,
// and no two tasks of one parallel_for write the same output: results are bitwise equal for any thread count.
#pragma once
#include <cstdint>

namespace sslspec::cpu {
namespace {

template <typename F>
void parallel_for(int64_t tasks, int threads, const F& f) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t t = 0; t < tasks; ++t) f(t);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < tasks; ++t) f(t);
}

// f() on every thread of a team; the threads share out the work themselves (pairs.h).
template <typename F>
void parallel_team(int threads, const F& f) {
  if (threads <= 1) return f();
#pragma omp parallel num_threads(threads)
  f();
}

}  // namespace
}  // namespace sslspec::cpu

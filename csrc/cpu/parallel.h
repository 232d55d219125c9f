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

// Rounds of tasks with a barrier between rounds, inside one parallel region: f(round, task).
// Tasks of one round must be independent; rounds run in order.
template <typename F>
void parallel_rounds(int64_t rounds, int64_t tasks, int threads, const F& f) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t r = 0; r < rounds; ++r)
      for (int64_t t = 0; t < tasks; ++t) f(r, t);
    return;
  }
#pragma omp parallel num_threads(threads)
  for (int64_t r = 0; r < rounds; ++r) {
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < tasks; ++t) f(r, t);
  }
}

}  // namespace
}  // namespace sslspec::cpu

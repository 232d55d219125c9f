// Independent views shared out among threads. Included by *.kernel.cpp only.
#pragma once
#include "simd/parallel.h"

namespace sslspec::cpu {
namespace {

// f(view, threads) for every view: whole rounds of one view a thread, then the remaining views with all threads each.
// What f computes must not depend on its number of threads.
template <typename F>
void for_views(int64_t views, int threads, const F& f) {
  const int64_t alone = threads > 1 ? views / threads * threads : views;
  parallel_for(alone, threads, [&](int64_t v) { f(v, 1); });
  for (int64_t v = alone; v < views; ++v) f(v, threads);
}

}  // namespace
}  // namespace sslspec::cpu

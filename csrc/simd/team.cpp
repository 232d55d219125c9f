#include "simd/team.h"

#include <omp.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>

namespace sslspec::cpu {
namespace {

using Clock = std::chrono::steady_clock;

thread_local Team* of_this_thread = nullptr;
thread_local Clock::duration waited{};  // of the pass that this thread runs: its time without work

constexpr int kAlone = 32, kMostAlone = 1024;
std::atomic<int> left_alone{0};       // short passes that are still to run alone
std::atomic<int> next_alone{kAlone};  // so many after the next late one

void judge(bool late) {
  const int count = next_alone;
  if (late) left_alone = count;
  next_alone = !late ? kAlone : count < kMostAlone ? 2 * count : count;
}

// Adds its lifetime to `waited`.
class Waiting {
 public:
  Waiting() : start_(Clock::now()) {}
  ~Waiting() { waited += Clock::now() - start_; }

 private:
  Clock::time_point start_;
};

// Whether ready() became true within the time in which waking a sleeping thread would not be faster.
template <typename F>
bool spin_until(const F& ready) {
  const auto end = Clock::now() + std::chrono::microseconds(50);
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
#if defined(__SSE2__)
      __builtin_ia32_pause();
#endif
    }
  } while (Clock::now() < end);
  return ready();
}

// Threads that sleep until a counter has its value. All counters share it: sleepers are rare.
struct Sleepers {
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<int> number{0};
};
Sleepers& sleepers() {
  static Sleepers* const only = new Sleepers;  // never destroyed: threads may outlive static objects
  return *only;
}

}  // namespace

struct Team::State {
  std::mutex mutex;
  std::condition_variable posted, left;
  void (*job)(void*, int) = nullptr;  // null: none to help with
  void* context = nullptr;
  std::atomic<int64_t> jobs{0};  // that were posted
  std::atomic<int> inside{0};    // helpers in the job
  std::atomic<bool> over{false};
};

Team* Team::current() { return of_this_thread; }

Team::Team(int threads) : threads_(threads) {}

void Team::begin(int threads, void (*pass)(void*), void* context) {
  Team team(threads);
  State state;
  team.state_ = &state;
  std::exception_ptr failure;
  Clock::time_point started, ended;
  waited = {};
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_thread_num() != 0) {
      team.help(omp_get_thread_num());
    } else {
      of_this_thread = &team;
      started = Clock::now();
      try {
        pass(context);
      } catch (...) {  // may not leave the region
        failure = std::current_exception();
      }
      of_this_thread = nullptr;
      ended = Clock::now();
      const std::lock_guard<std::mutex> lock(state.mutex);
      state.over = true;
      state.posted.notify_all();
    }
  }
  const Clock::duration all = Clock::now() - started, worked = ended - started - waited;
  judge(all - worked > worked);
  if (failure) std::rethrow_exception(failure);
}

void Team::help(int thread) {
  State& s = *state_;
  for (int64_t seen = 0;;) {
    const auto called = [&] { return s.over || s.jobs != seen; };
    spin_until(called);
    std::unique_lock<std::mutex> lock(s.mutex);
    s.posted.wait(lock, called);
    if (s.over) return;
    seen = s.jobs;
    if (s.job == nullptr) continue;  // it is through already
    void (*const job)(void*, int) = s.job;
    void* const context = s.context;
    ++s.inside;
    lock.unlock();
    job(context, thread);
    lock.lock();
    if (--s.inside == 0) s.left.notify_one();
  }
}

void Team::run(void (*job)(void*, int), void* context) {
  State& s = *state_;
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    s.job = job, s.context = context;
    ++s.jobs;
  }
  s.posted.notify_all();
  job(context, 0);
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    s.job = nullptr;
  }
  const auto empty = [&] { return s.inside == 0; };
  const Waiting waiting;
  spin_until(empty);
  std::unique_lock<std::mutex> lock(s.mutex);
  s.left.wait(lock, empty);
}

void Team::wait(const int64_t* counter, int64_t value) {
  const auto there = [&] { return __atomic_load_n(counter, __ATOMIC_SEQ_CST) == value; };
  if (there()) return;
  const Waiting waiting;
  if (spin_until(there)) return;
  Sleepers& s = sleepers();
  std::unique_lock<std::mutex> lock(s.mutex);
  ++s.number;  // before the counter is read again, as `count` reads it after the counter has changed
  s.changed.wait(lock, there);
  --s.number;
}

void Team::count(int64_t* counter) {
  __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
  Sleepers& s = sleepers();
  if (s.number == 0) return;
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.changed.notify_all();
}

bool next_runs_alone() {
  int left = left_alone;
  while (left > 0 && !left_alone.compare_exchange_weak(left, left - 1)) continue;
  return left > 0;
}

}  // namespace sslspec::cpu

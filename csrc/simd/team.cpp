#include "simd/team.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include "simd/subnormal.h"

namespace sslspec::cpu {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

thread_local Team* of_this_thread = nullptr;

// Whether ready() became true within the time in which waking a sleeping thread would not be faster.
template <typename F>
bool spin_until(const F& ready) {
  const auto end = Clock::now() + microseconds(50);
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

// Threads that sleep until something that others change: those others take the lock only where there is one.
class Sleepers {
 public:
  template <typename F>
  void sleep_until(const F& ready) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++number_;  // before ready() is asked, as wake() reads it after the change
    changed_.wait(lock, ready);
    --number_;
  }
  void wake() {
    if (number_ == 0) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int> number_{0};
};

template <typename F>
void wait_until(Sleepers& sleepers, const F& ready) {
  if (!ready() && !spin_until(ready)) sleepers.sleep_until(ready);
}

// That this thread has had.
std::chrono::nanoseconds processor_time() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

// Those that wait for a counter. All counters share it: sleepers are rare.
Sleepers& at_counters() {
  static Sleepers* const only = new Sleepers;  // never destroyed: threads may outlive static objects
  return *only;
}

int this_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  static std::atomic<int> other{0};  // never the same: where threads run is not known
  return other++;
#endif
}

// A thread that OpenMP has bound to a place hands that on to those that it starts; helpers go where any may.
void leave_place() {
#if defined(__linux__)
  cpu_set_t all;
  CPU_ZERO(&all);
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> processors(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, processors.data());
    for (const int processor : processors)
      if (processor < CPU_SETSIZE) CPU_SET(processor, &all);
  }
  if (CPU_COUNT(&all) > 0) pthread_setaffinity_np(pthread_self(), sizeof(all), &all);
#endif
}

}  // namespace

// A thread of the process, lent to one team at a time.
struct Helper {
  enum State : int { idle, called, at_work };

  std::atomic<int> state{idle};
  std::atomic<int> core{-1};  // of the last caller
  Sleepers until_called, until_idle;
  // of the call
  void (*job)(void*, int) = nullptr;
  void* context = nullptr;
  int thread = 0;
  NumberMode mode{};  // of the caller: results must not depend on who computes

  void call(void (*f)(void*, int), void* of_f, int number) {
    job = f, context = of_f, thread = number;
    mode = number_mode();
    core = this_core();
    state = called;
    until_called.wake();
  }
  // Returns when the helper is through with the call, or false: it did not begin and will not.
  bool call_back() {
    int before = called;
    if (state.compare_exchange_strong(before, idle)) return false;
    wait_until(until_idle, [&] { return state == idle; });
    return true;
  }
  void work() {
    leave_place();
    const auto ready = [&] { return state == called; };
    for (;;) {
      // On the core of its caller a helper could only take time from it.
      const auto beside = [&] { return core == this_core(); };
      spin_until([&] { return ready() || beside(); });
      if (!ready()) until_called.sleep_until(ready);
      while (ready() && beside()) std::this_thread::yield();  // until the system moves it to another
      int before = called;
      if (!state.compare_exchange_strong(before, at_work)) continue;  // called back
      set_number_mode(mode);
      job(context, thread);
      state = idle;
      until_idle.wake();
    }
  }
};

namespace {

// The helpers that no team has.
//
// On a busy machine a helper comes late or never, to wake it may cost the caller its core, and one that is put aside in
// the middle of its work keeps the caller waiting: a time slice, which is nothing to a long pass and many times a short
// one. A short pass to which that happens is followed by some that call no helper: eight times as many each time, and
// half as many after one that went well.
struct Pool {
  static constexpr int kShortest = 8, kLongest = 512;

  std::mutex mutex;
  std::vector<Helper*> free;
  int number = 0;         // of all
  int alone = 0;          // passes that call none
  int pause = kShortest;  // how many those were the last time

  Pool() { free.reserve(kMostThreads); }  // giving a helper back takes no memory

  void learn(bool in_vain) {
    if (in_vain)
      alone = pause = std::min(8 * pause, kLongest);
    else
      pause = std::max(pause / 2, kShortest);
  }
};

Pool* pool = nullptr;
std::once_flag pool_once;

Pool& the_pool() {
  std::call_once(pool_once, [] {
    pool = new Pool;
#if defined(__linux__)
    // The child of a fork has none of the threads, and perhaps a lock that one of them held.
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
  });
  return *pool;
}

// One that waits for calls, or null where the system has no further thread.
Helper* start_helper() {
  Helper* const helper = new (std::nothrow) Helper;  // never destroyed, like its thread
  if (helper == nullptr) return nullptr;
  try {
    std::thread([helper] { helper->work(); }).detach();
  } catch (const std::system_error&) {
    delete helper;
    return nullptr;
  }
  return helper;
}

}  // namespace

Team* Team::current() { return of_this_thread; }

void Team::begin(int threads, void (*pass)(void*), void* context) {
  struct Lent : Team {  // gives its helpers back
    const Clock::time_point start = Clock::now();
    const std::chrono::nanoseconds before = processor_time();

    explicit Lent(int threads) {
      Pool& p = the_pool();
      const std::lock_guard<std::mutex> lock(p.mutex);
      if (p.alone > 0) --p.alone, threads = 1;
      while (threads_ < threads && threads_ < kMostThreads) {
        if (p.free.empty()) {
          Helper* const one = p.number < kMostThreads ? start_helper() : nullptr;
          if (one == nullptr) break;
          ++p.number;
          p.free.push_back(one);
        }
        helpers_[threads_++ - 1] = p.free.back();
        p.free.pop_back();
      }
      of_this_thread = this;
    }
    ~Lent() {
      of_this_thread = nullptr;
      const auto worked = processor_time() - before;
      const bool is_short = worked < milliseconds(2);
      // it would have been faster alone, if each helper worked for as long as the caller
      const bool late = Clock::now() - start > threads_ * worked + microseconds(200);
      Pool& p = the_pool();
      const std::lock_guard<std::mutex> lock(p.mutex);
      if (!is_short)
        p.alone = 0;
      else if (threads_ > 1)
        p.learn(late || (!helped_ && worked > microseconds(50)));
      while (threads_ > 1) p.free.push_back(helpers_[--threads_ - 1]);
    }
  };
  const Lent team(threads);
  pass(context);
}

void Team::run(void (*job)(void*, int), void* context) {
  for (int i = 1; i < threads_; ++i) helpers_[i - 1]->call(job, context, i);
  job(context, 0);
  for (int i = 1; i < threads_; ++i) helped_ |= helpers_[i - 1]->call_back();
}

void Team::wait(const int64_t* counter, int64_t value) {
  wait_until(at_counters(), [&] { return __atomic_load_n(counter, __ATOMIC_SEQ_CST) == value; });
}

void Team::count(int64_t* counter) {
  __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
  at_counters().wake();
}

}  // namespace sslspec::cpu

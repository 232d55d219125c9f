// The threads of one pass: the calling thread runs the pass, and helpers of the process take part in its jobs.
//
// A job is over when all its work is done, not when all threads have been there: a helper that the system has put aside
// before it began is called back, and no thread waits for it. So another thread costs the few microseconds that it takes
// to wake it, and a busy machine no more. A thread that waits spins for some microseconds, as long as the next step is
// usually away, and then sleeps: a waiting thread that kept its core would take it from those that have work.
// Where helpers come too seldom to be of use, short passes do without (team.cpp).
#pragma once
#include <cstdint>

namespace sslspec::cpu {

constexpr int kMostThreads = 256;
struct Helper;

class Team {
 public:
  static Team* current();  // of the pass that the calling thread runs, or null
  // pass(context) on the calling thread, as current team of up to `threads`; throws what it throws.
  static void begin(int threads, void (*pass)(void*), void* context);

  int threads() const { return threads_; }
  // job(context, thread) on the calling thread, which is 0, and on the helpers that come before it is through; returns
  // when all of those are. The job divides its work itself, and throws nothing.
  void run(void (*job)(void*, int), void* context);

  // Until *counter == value, where others `count` it up.
  static void wait(const int64_t* counter, int64_t value);
  static void count(int64_t* counter);

 private:
  Team() = default;

  int threads_ = 1;
  bool helped_ = false;            // a helper has taken part
  Helper* helpers_[kMostThreads];  // threads_ - 1
};

namespace {

// f() as a pass, in the current team if there is one.
template <typename F>
void in_team(int threads, const F& f) {
  if (threads <= 1 || Team::current() != nullptr) return f();
  Team::begin(threads, [](void* context) { (*static_cast<const F*>(context))(); }, const_cast<F*>(&f));
}

}  // namespace

}  // namespace sslspec::cpu

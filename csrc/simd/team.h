// The threads of one pass: one parallel region, in which the calling thread runs the pass and the others help with its
// jobs.
//
// A job is over when all its work is done, not when all threads have been there: a thread that the system has put aside
// before it began delays no other. A thread that waits spins for some microseconds, as long as the next step is usually
// away, and then sleeps: a waiting thread that kept its core would take it from those that have work.
#pragma once
#include <cstdint>

namespace sslspec::cpu {

class Team {
 public:
  static Team* current();  // of the pass that the calling thread runs, or null
  // pass(context) on the calling thread, as current team one of `threads`; throws what it throws.
  static void begin(int threads, void (*pass)(void*), void* context);

  int threads() const { return threads_; }
  // job(context, thread) on the calling thread, which is 0, and on those that come before it is through; returns when
  // all are. The job divides its work itself, and throws nothing.
  void run(void (*job)(void*, int), void* context);

  // Until *counter == value, where others `count` it up.
  static void wait(const int64_t* counter, int64_t value);
  static void count(int64_t* counter);

 private:
  struct State;
  explicit Team(int threads);
  void help(int thread);

  int threads_;
  State* state_ = nullptr;
};

// Whether the next short pass should run on its calling thread alone, of which it counts one: so do 32 of them after a
// pass that waited for its threads for longer than its calling thread worked, as on a busy machine, and twice as many
// after each further such pass in a row, 1024 at most.
bool next_runs_alone();

namespace {

// f() as a pass, in the current team if there is one.
template <typename F>
void in_team(int threads, const F& f) {
  if (threads <= 1 || Team::current() != nullptr) return f();
  Team::begin(threads, [](void* context) { (*static_cast<const F*>(context))(); }, const_cast<F*>(&f));
}

}  // namespace

}  // namespace sslspec::cpu

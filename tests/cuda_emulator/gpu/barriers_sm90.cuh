// Host stand-in for csrc/gpu/barriers_sm90.cuh.
#pragma once
#include "gpu/copy.cuh"

namespace sslspec::cuda {

inline void sync_at(int id, int threads) { emulator::numbered_barrier(id, threads, true); }
inline void arrive_at(int id, int threads) { emulator::numbered_barrier(id, threads, false); }

class SharedBarrier {
 public:
  void init(int count) { emulator::init_barrier(&word, count); }
  void arrive() { emulator::arrive(&word, 0); }
  void arrive_before(int bytes) { emulator::arrive(&word, bytes); }
  void wait(int parity) { emulator::wait_phase(&word, parity); }

  uint64_t word;
};

inline void publish_barriers() {}

}  // namespace sslspec::cuda

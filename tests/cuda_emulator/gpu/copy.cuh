// Host stand-in for csrc/gpu/copy.cuh: copies land when they are waited for.
#pragma once
#include "emulator.h"

namespace sslspec::cuda {

inline unsigned char* dynamic_shared() { return emulator::shared_memory(); }
inline void copy16(void* shared, const void* global, bool valid) { emulator::copy_later(shared, global, 16, valid); }
template <int kBytes>
void copy_small(void* shared, const void* global, bool valid) {
  emulator::copy_later(shared, global, kBytes, valid);
}
inline void copy_commit() { emulator::commit_copies(); }
template <int kPending>
void copy_wait() {
  emulator::wait_copies(kPending);
}

}  // namespace sslspec::cuda

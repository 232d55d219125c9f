#include "simd/scratch.h"

#include <cstdlib>
#include <new>

namespace sslspec::cpu {
namespace {

constexpr int kSlots = 8;

struct Buffers {
  void* data[kSlots] = {};
  size_t bytes[kSlots] = {};
  ~Buffers() {
    for (void* p : data) std::free(p);
  }
};

}  // namespace

void* scratch(int slot, size_t bytes) {
  static thread_local Buffers own;
  if (own.bytes[slot] < bytes) {
    std::free(own.data[slot]);
    own.bytes[slot] = 0;
    own.data[slot] = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (own.data[slot] == nullptr) throw std::bad_alloc();
    own.bytes[slot] = bytes;
  }
  return own.data[slot];
}

}  // namespace sslspec::cpu

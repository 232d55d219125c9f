#include "simd/scratch.h"

#include <cstdlib>
#include <cstring>
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

// Whether SSLSPEC_SCRATCH in the environment is "nan".
bool starts_as_nan() {
  const char* named = std::getenv("SSLSPEC_SCRATCH");
  return named != nullptr && std::strcmp(named, "nan") == 0;
}

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
  static const bool nan = starts_as_nan();
  if (nan) std::memset(own.data[slot], 0xff, bytes);
  return own.data[slot];
}

}  // namespace sslspec::cpu

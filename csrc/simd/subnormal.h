// How a thread computes with numbers (rounding, subnormal ones), and subnormal numbers as zero for the lifetime of an
// object.
//
// Weights of well-aligned pairs at a small temperature (CLIP at scale 100: e^-60 times e^-40) fall below the normal
// range. They add nothing, but a product with a subnormal number takes the processor a hundred times as long.
#pragma once
#include <cstdint>

namespace sslspec::cpu {
namespace {

#if defined(__SSE2__)
using NumberMode = uint32_t;
constexpr NumberMode kFlush = 0x8040u;  // FTZ and DAZ
inline NumberMode number_mode() { return __builtin_ia32_stmxcsr(); }
inline void set_number_mode(NumberMode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
using NumberMode = uint64_t;
constexpr NumberMode kFlush = 1ull << 24;  // FZ
inline NumberMode number_mode() {
  NumberMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_number_mode(NumberMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using NumberMode = uint32_t;
constexpr NumberMode kFlush = 0;
inline NumberMode number_mode() { return 0; }
inline void set_number_mode(NumberMode) {}
#endif

class FlushSubnormals {
 public:
  FlushSubnormals() : before_(number_mode()) { set_number_mode(before_ | kFlush); }
  ~FlushSubnormals() { set_number_mode(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  NumberMode before_;
};

}  // namespace
}  // namespace sslspec::cpu

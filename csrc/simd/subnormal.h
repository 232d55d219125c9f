// Subnormal numbers as zero, for the thread and the lifetime of the object.
//
// Weights of well-aligned pairs at a small temperature (CLIP at scale 100: e^-60 times e^-40) fall below the normal
// range. They add nothing, but a product with a subnormal number takes the processor a hundred times as long.
#pragma once
#include <cstdint>

namespace sslspec::cpu {
namespace {

#if defined(__SSE2__)
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040u); }  // FTZ and DAZ
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned before_;
};
#elif defined(__aarch64__)
class FlushSubnormals {
 public:
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));  // FZ
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  uint64_t before_;
};
#else
struct FlushSubnormals {
  FlushSubnormals() {}
};
#endif

}  // namespace
}  // namespace sslspec::cpu

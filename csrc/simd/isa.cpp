#include "simd/isa.h"

#include <cstdlib>
#include <cstring>

#include "common/check.h"

#ifdef SSLSPEC_X86_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sslspec::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512bf16", "amx"};

// Whether processor and system have tile registers, and the system lets this process use them: it reserves the 8 KiB that
// a thread's tiles take in a context switch once they are asked for.
bool has_tiles() {
#ifdef SSLSPEC_X86_AMX
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa detect() {
#ifdef SSLSPEC_X86
  __builtin_cpu_init();
  // x86-64-v4 and x86-64-v3, spelled out because older compilers lack those names here
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
#ifdef SSLSPEC_X86_BF16
    if (__builtin_cpu_supports("avx512bf16")) return has_tiles() ? Isa::amx : Isa::avx512bf16;
#endif
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa choose() {
  const Isa found = detect();
  const char* cap = std::getenv("SSLSPEC_ISA");
  if (cap == nullptr || *cap == '\0') return found;
  for (int level = 0; level < 5; ++level)
    if (std::strcmp(cap, kNames[level]) == 0) return level < static_cast<int>(found) ? static_cast<Isa>(level) : found;
  fail("SSLSPEC_ISA must be one of baseline, avx2, avx512, avx512bf16, amx, got ", cap);
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

void no_bf16_products() { fail("this build does not multiply bfloat16"); }

const char* isa_name() { return kNames[static_cast<int>(isa())]; }

}  // namespace sslspec::cpu

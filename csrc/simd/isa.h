// Instruction-set levels of the CPU kernels. Every *.kernel.cpp is compiled once per level up to avx512 into its own
// namespace, *.bf16.cpp once per level above it; the level is chosen once per process from the CPU and the cap in
// $SSLSPEC_ISA.
#pragma once

namespace sslspec::cpu {

// avx512bf16: products of two pairs of bfloat16 numbers. amx: products of tiles of them.
enum class Isa { baseline, avx2, avx512, avx512bf16, amx };

Isa isa();  // throws std::invalid_argument for an unknown $SSLSPEC_ISA
const char* isa_name();
inline bool bf16_products() { return isa() >= Isa::avx512bf16; }

[[noreturn]] void no_bf16_products();  // in place of a kernel that this build does not have

}  // namespace sslspec::cpu

// Declares `declaration` in the namespace of every level that this build has, or of its own in a kernel file.
// SSLSPEC_CALL(f, args...) calls the level chosen for this process. SSLSPEC_EACH_BF16_ISA and SSLSPEC_CALL_BF16 are the
// same for kernels of bfloat16 products; call them only where `bf16_products()`.
#if defined(SSLSPEC_ISA)
#define SSLSPEC_EACH_ISA(...) \
  namespace SSLSPEC_ISA {     \
  __VA_ARGS__                 \
  }
#elif defined(SSLSPEC_X86)
#define SSLSPEC_EACH_ISA(...) \
  namespace baseline {        \
  __VA_ARGS__                 \
  }                           \
  namespace avx2 {            \
  __VA_ARGS__                 \
  }                           \
  namespace avx512 {          \
  __VA_ARGS__                 \
  }
#define SSLSPEC_CALL(f, ...)                                                                     \
  (::sslspec::cpu::isa() >= ::sslspec::cpu::Isa::avx512 ? ::sslspec::cpu::avx512::f(__VA_ARGS__) \
   : ::sslspec::cpu::isa() == ::sslspec::cpu::Isa::avx2 ? ::sslspec::cpu::avx2::f(__VA_ARGS__)   \
                                                        : ::sslspec::cpu::baseline::f(__VA_ARGS__))
#else
#define SSLSPEC_EACH_ISA(...) \
  namespace baseline {        \
  __VA_ARGS__                 \
  }
#define SSLSPEC_CALL(f, ...) (::sslspec::cpu::baseline::f(__VA_ARGS__))
#endif

#if defined(SSLSPEC_ISA)
#define SSLSPEC_EACH_BF16_ISA(...) SSLSPEC_EACH_ISA(__VA_ARGS__)
#else
#define SSLSPEC_EACH_BF16_ISA(...) \
  namespace avx512bf16 {           \
  __VA_ARGS__                      \
  }                                \
  namespace amx {                  \
  __VA_ARGS__                      \
  }
#endif
#if defined(SSLSPEC_X86_AMX)
#define SSLSPEC_CALL_BF16(f, ...)                                                          \
  (::sslspec::cpu::isa() == ::sslspec::cpu::Isa::amx ? ::sslspec::cpu::amx::f(__VA_ARGS__) \
                                                     : ::sslspec::cpu::avx512bf16::f(__VA_ARGS__))
#elif defined(SSLSPEC_X86_BF16)
#define SSLSPEC_CALL_BF16(f, ...) (::sslspec::cpu::avx512bf16::f(__VA_ARGS__))
#else
#define SSLSPEC_CALL_BF16(f, ...) \
  (::sslspec::cpu::no_bf16_products(), decltype(::sslspec::cpu::avx512bf16::f(__VA_ARGS__))())
#endif

// Whether kernels of Hopper may run: the build has them, and SSLSPEC_HOPPER in the environment does not keep them away.
// For comparisons it names the one kind of pass that may be Hopper's ("statistics", "sums", "chained", "weights",
// "exponentials", "sigmoid", "strips", "triangle", "gradient", "kept"), or none of them ("portable"). A pass that no GPU
// has run so far ("strips", "triangle", "gradient", "kept") is Hopper's only if it is named, or "all" are.
#pragma once
#include <cstdlib>
#include <cstring>

namespace sslspec::cuda {

#ifdef SSLSPEC_WITH_SM90A
inline constexpr bool kHopperBuilt = true;
#else
inline constexpr bool kHopperBuilt = false;
#endif

inline const char* hopper_named() {
  const char* named = std::getenv("SSLSPEC_HOPPER");
  return named == nullptr ? "" : named;
}
inline bool hopper_names(const char* pass) {
  return std::strcmp(hopper_named(), pass) == 0 || std::strcmp(hopper_named(), "all") == 0;
}
inline bool hopper_allows(const char* pass) { return *hopper_named() == 0 || hopper_names(pass); }

}  // namespace sslspec::cuda

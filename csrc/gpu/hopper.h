// Whether kernels of Hopper may run: the build has them, and SSLSPEC_HOPPER in the environment does not keep them away.
// For comparisons it names the one kind of pass that may be Hopper's ("statistics", "sums", "chained", "weights",
// "exponentials", "sigmoid", "triangle"), or none of them ("portable").
#pragma once
#include <cstdlib>
#include <cstring>

namespace sslspec::cuda {

#ifdef SSLSPEC_WITH_SM90A
inline constexpr bool kHopperBuilt = true;
#else
inline constexpr bool kHopperBuilt = false;
#endif

inline bool hopper_allows(const char* pass) {
  const char* named = std::getenv("SSLSPEC_HOPPER");
  return named == nullptr || *named == 0 || std::strcmp(named, pass) == 0 || std::strcmp(named, "all") == 0;
}

}  // namespace sslspec::cuda

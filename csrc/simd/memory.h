// memset and memcpy of arrays that may be empty: their pointer is then null, which the two forbid whatever the size.
#pragma once
#include <cstdint>
#include <cstring>

namespace sslspec::cpu {
namespace {

template <typename T>
inline void zero(T* x, int64_t count) {
  if (count > 0) std::memset(x, 0, sizeof(T) * static_cast<size_t>(count));
}

template <typename T>
inline void copy_all(T* to, const T* from, int64_t count) {
  if (count > 0) std::memcpy(to, from, sizeof(T) * static_cast<size_t>(count));
}

}  // namespace
}  // namespace sslspec::cpu

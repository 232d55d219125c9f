// Vectors of which only the first `count` lanes lie inside an array: masked loads give 0 in the other lanes, masked
// stores leave memory alone. Included by *.kernel.cpp only.
#pragma once
#include "simd/vec.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sslspec::cpu {
namespace {

template <typename T>
struct Tail;

#if defined(__AVX512F__)
template <>
struct Tail<float> {
  __mmask16 mask;
  explicit Tail(int64_t count) : mask(static_cast<__mmask16>((1u << count) - 1u)) {}
  inline __attribute__((always_inline)) Vec<float> load(const float* p) const {
    return (Vec<float>)_mm512_maskz_loadu_ps(mask, p);
  }
  inline __attribute__((always_inline)) void store(float* p, Vec<float> v) const {
    _mm512_mask_storeu_ps(p, mask, (__m512)v);
  }
};
template <>
struct Tail<double> {
  __mmask8 mask;
  explicit Tail(int64_t count) : mask(static_cast<__mmask8>((1u << count) - 1u)) {}
  inline __attribute__((always_inline)) Vec<double> load(const double* p) const {
    return (Vec<double>)_mm512_maskz_loadu_pd(mask, p);
  }
  inline __attribute__((always_inline)) void store(double* p, Vec<double> v) const {
    _mm512_mask_storeu_pd(p, mask, (__m512d)v);
  }
};
#elif defined(__AVX2__)
template <>
struct Tail<float> {
  __m256i mask;
  explicit Tail(int64_t count) {
    int32_t lanes[8];
    for (int i = 0; i < 8; ++i) lanes[i] = i < count ? -1 : 0;
    std::memcpy(&mask, lanes, sizeof(mask));
  }
  inline __attribute__((always_inline)) Vec<float> load(const float* p) const {
    return (Vec<float>)_mm256_maskload_ps(p, mask);
  }
  inline __attribute__((always_inline)) void store(float* p, Vec<float> v) const {
    _mm256_maskstore_ps(p, mask, (__m256)v);
  }
};
template <>
struct Tail<double> {
  __m256i mask;
  explicit Tail(int64_t count) {
    int64_t lanes[4];
    for (int i = 0; i < 4; ++i) lanes[i] = i < count ? -1 : 0;
    std::memcpy(&mask, lanes, sizeof(mask));
  }
  inline __attribute__((always_inline)) Vec<double> load(const double* p) const {
    return (Vec<double>)_mm256_maskload_pd(p, mask);
  }
  inline __attribute__((always_inline)) void store(double* p, Vec<double> v) const {
    _mm256_maskstore_pd(p, mask, (__m256d)v);
  }
};
#else
template <typename T>
struct Tail {
  int64_t count;
  explicit Tail(int64_t lanes) : count(lanes) {}
  inline __attribute__((always_inline)) Vec<T> load(const T* p) const {
    Vec<T> v{};
    for (int64_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
  }
  inline __attribute__((always_inline)) void store(T* p, Vec<T> v) const {
    for (int64_t i = 0; i < count; ++i) p[i] = v[i];
  }
};
#endif

}  // namespace
}  // namespace sslspec::cpu

// Vec<T>: one SIMD register of the instruction set being compiled, as a GCC / Clang vector type, with the few
// operations that the kernels need. Included by *.kernel.cpp only; everything has internal linkage.
#pragma once
#include <cstdint>
#include <cstring>

namespace sslspec::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(kVecBytes)));
  typedef uint32_t bits __attribute__((vector_size(kVecBytes)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(kVecBytes)));
  typedef uint64_t bits __attribute__((vector_size(kVecBytes)));
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
using VecBits = typename VecOf<T>::bits;
template <typename T>
constexpr int kLanes = kVecBytes / static_cast<int>(sizeof(T));

template <typename T>
inline __attribute__((always_inline)) Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <typename T>
inline __attribute__((always_inline)) void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof(v));
}
// Asks for `count` values that are read soon. What is read for the first time is waited for, because processors' own
// prefetchers stop at every page of 4 KiB and do not follow rows that are read side by side.
template <int64_t count, typename T>
inline __attribute__((always_inline)) void ask_for(const T* values) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
#pragma GCC unroll 8
  for (int64_t k = 0; k < count; k += kLine) __builtin_prefetch(values + k);
}
template <typename T>
inline __attribute__((always_inline)) Vec<T> splat(T x) {
  return x - Vec<T>{};
}
// x as it is rounded: a sum that takes it is not fused with the product that made it.
template <typename T>
inline __attribute__((always_inline)) Vec<T> rounded(Vec<T> x) {
#if defined(__x86_64__)
  asm("" : "+v"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}
template <typename T>
inline __attribute__((always_inline)) Vec<T> vmax(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <typename T>
inline T hsum(Vec<T> v) {  // fixed pairwise order
  T lane[kLanes<T>];
  std::memcpy(lane, &v, sizeof(v));
  for (int w = kLanes<T> / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) lane[i] += lane[i + w];
  return lane[0];
}
template <typename T>
inline T hmax(Vec<T> v) {
  T m = v[0];
  for (int i = 1; i < kLanes<T>; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// 2^x by x = n + f with f in [-1/2, 1/2]: 2^f by a polynomial whose error is below rounding (minimax for float, Taylor
// for double), 2^n by exponent bits.
template <typename T>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {
  static constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kLowest = -126.f;
  static constexpr float kLn2[2] = {0.693359375f, -2.12194440e-4f};  // products of the first with n are exact
  static constexpr int kMantissa = 23, kTerms = 7;
  static constexpr float c[kTerms] = {1.f,           0.693147182f,  0.240226477f, 0.0555033237f, 0.00961843692f,
                                      0.0013398875f, 0.00015353362f};
};
template <>
struct Exp2Constants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLowest = -1022.0;
  static constexpr double kLn2[2] = {6.93147180369123816490e-01, 1.90821492927058770002e-10};
  static constexpr int kMantissa = 52, kTerms = 14;
  static constexpr double c[kTerms] = {1.0,
                                       0.69314718055994530942,
                                       0.24022650695910071233,
                                       0.055504108664821579953,
                                       0.0096181291076284771620,
                                       0.0013333558146428443423,
                                       0.00015403530393381609954,
                                       1.5252733804059840280e-05,
                                       1.3215486790144309488e-06,
                                       1.0178086009239699728e-07,
                                       7.0549116208011233299e-09,
                                       4.4455382718708114976e-10,
                                       2.5678435993488205142e-11,
                                       1.3691488853904128881e-12};
};

// 2^(n + f) for f in [-1/2, 1/2] and the integer n = shifted - kRound. The low bits of a NaN are no integer: where f may
// be NaN they are left out, or they could carry into the exponent and make a finite number of it.
template <typename T, bool kMayBeNan>
inline __attribute__((always_inline)) Vec<T> exp2_parts(Vec<T> shifted, Vec<T> f) {
  using C = Exp2Constants<T>;
  Vec<T> p = splat<T>(C::c[C::kTerms - 1]);
#pragma GCC unroll 16
  for (int i = C::kTerms - 2; i >= 0; --i) p = p * f + C::c[i];
  VecBits<T> n, q;
  std::memcpy(&n, &shifted, sizeof(n));
  std::memcpy(&q, &p, sizeof(q));
  n <<= C::kMantissa;  // the magic constant's own bits fall off the top
  if constexpr (kMayBeNan) n &= (VecBits<T>)(f == f);
  q += n;
  std::memcpy(&p, &q, sizeof(p));
  return p;
}

// -126 <= x < 128 (-1022 <= x < 1024 for double), not NaN; relative error below 2 ulp.
template <typename T, bool kMayBeNan = false>
inline __attribute__((always_inline)) Vec<T> exp2_normal(Vec<T> x) {
  using C = Exp2Constants<T>;
  const Vec<T> shifted = x + C::kRound;
  return exp2_parts<T, kMayBeNan>(shifted, x - (shifted - C::kRound));
}

// As exp2_normal; x below the normal range, -inf included, gives 0; NaN stays NaN.
template <typename T>
inline __attribute__((always_inline)) Vec<T> exp2(Vec<T> x) {
  const Vec<T> lowest = splat<T>(Exp2Constants<T>::kLowest);
  const auto below = x < lowest;  // false for NaN
  const Vec<T> p = exp2_normal<T, true>(below ? lowest : x);
  return below ? Vec<T>{} : p;
}

// e^x for x <= 0, to 2 ulp whatever the size of x: x log2(e) would round away digits of its fraction. Below the normal
// range 0; NaN stays NaN.
template <typename T>
inline __attribute__((always_inline)) Vec<T> exp_negative(Vec<T> x) {
  using C = Exp2Constants<T>;
  constexpr T kLog2e = static_cast<T>(1.44269504088896340736);
  const auto below = x < C::kLowest / kLog2e;  // false for NaN
  x = below ? Vec<T>{} : x;
  const Vec<T> shifted = x * kLog2e + C::kRound, n = shifted - C::kRound;
  const Vec<T> p = exp2_parts<T, true>(shifted, ((x - n * C::kLn2[0]) - n * C::kLn2[1]) * kLog2e);
  return below ? Vec<T>{} : p;
}

}  // namespace
}  // namespace sslspec::cpu

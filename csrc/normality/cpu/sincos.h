// Sine and cosine of registers. Included by *.kernel.cpp only.
#pragma once
#include "simd/vec.h"

namespace sslspec::cpu {
namespace {

// x = q pi + r with r in [-pi/2, pi/2]: pi in three parts, of which the first two have products with q that are exact
// for |q| < 2^13 (float) or 2^20 (double). Taylor polynomials of r, whose error on that interval is below rounding.
template <typename T>
struct SinCosConstants;
template <>
struct SinCosConstants<float> {
  static constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr int kSign = 31, kTerms = 7;
  static constexpr float kPi[3] = {3.140625f, 9.67502593994140625e-4f, 1.50995799e-7f};
  static constexpr float s[kTerms] = {1.f,           -1.6666667e-1f, 8.3333333e-3f, -1.9841270e-4f,
                                      2.7557319e-6f, -2.5052108e-8f, 1.6059044e-10f};
  static constexpr float c[kTerms] = {1.f,           -0.5f,          4.1666667e-2f, -1.3888889e-3f,
                                      2.4801587e-5f, -2.7557319e-7f, 2.0876757e-9f};
};
template <>
struct SinCosConstants<double> {
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kSign = 63, kTerms = 12;
  static constexpr double kPi[3] = {3.14159265346825122834, 1.21542010126079319532e-10, 4.04453249759190126308e-21};
  static constexpr double s[kTerms] = {1.0,
                                       -1.6666666666666666667e-1,
                                       8.3333333333333333333e-3,
                                       -1.9841269841269841270e-4,
                                       2.7557319223985890653e-6,
                                       -2.5052108385441718775e-8,
                                       1.6059043836821614599e-10,
                                       -7.6471637318198164759e-13,
                                       2.8114572543455207632e-15,
                                       -8.2206352466243297170e-18,
                                       1.9572941063391261231e-20,
                                       -3.8681701706306840377e-23};
  static constexpr double c[kTerms] = {1.0,
                                       -0.5,
                                       4.1666666666666666667e-2,
                                       -1.3888888888888888889e-3,
                                       2.4801587301587301587e-5,
                                       -2.7557319223985890653e-7,
                                       2.0876756987868098979e-9,
                                       -1.1470745597729724714e-11,
                                       4.7794773323873852974e-14,
                                       -1.5619206968586226462e-16,
                                       4.1103176233121648585e-19,
                                       -8.8967913924505732867e-22};
};

// Angles so large that their own rounding exceeds a turn give some value in [-1, 1]; infinite ones give NaN.
template <typename T>
inline __attribute__((always_inline)) void sincos(Vec<T> x, Vec<T>& sine, Vec<T>& cosine) {
  using C = SinCosConstants<T>;
  constexpr T kInverse = static_cast<T>(0.318309886183790671538), kHalf = static_cast<T>(1.57079632679489661923);
  const Vec<T> shifted = x * kInverse + C::kRound, q = shifted - C::kRound;
  Vec<T> r = ((x - q * C::kPi[0]) - q * C::kPi[1]) - q * C::kPi[2];
  r = r > kHalf ? splat(kHalf) : r;
  r = r < -kHalf ? splat(-kHalf) : r;
  const Vec<T> square = r * r;
  Vec<T> s = splat(C::s[C::kTerms - 1]), c = splat(C::c[C::kTerms - 1]);
#pragma GCC unroll 12
  for (int i = C::kTerms - 2; i >= 0; --i) s = s * square + C::s[i], c = c * square + C::c[i];
  s *= r;
  VecBits<T> odd, bits;
  std::memcpy(&odd, &shifted, sizeof(odd));
  odd <<= C::kSign;  // the lowest bit of q as a sign
  std::memcpy(&bits, &s, sizeof(bits));
  bits ^= odd;
  std::memcpy(&sine, &bits, sizeof(bits));
  std::memcpy(&bits, &c, sizeof(bits));
  bits ^= odd;
  std::memcpy(&cosine, &bits, sizeof(bits));
}

}  // namespace
}  // namespace sslspec::cpu

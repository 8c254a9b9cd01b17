// Constants of a call in units of log2, and the elimination row. Include a
// simd_*.h first.
#pragma once

#include <cmath>
#include <limits>

#include "attention/attention.h"

namespace esat::attention {
namespace {

constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;

// The bound m_i is lowered by this much, so that a loose bound has room to both
// sides: sums up to 2^(64 + log2 N), and down to kLowestSum.
constexpr float kHeadroom = 64.0F;
constexpr float kLowestSum = 8.271806e-25F;  // 2^-80: smaller terms of such a row are below 2^-46 of its
                                             // sum when they underflow
constexpr float kHighestSum = 1e30F;
// exp2 takes no score that lies more than 63 above its bound, as rounding puts one there where the terms of the bound are larger than
// this. Such a row has its exact maximum alone.
constexpr float kLargestBound = 4194304.0F;  // 2^22
constexpr float kMasked = -1e30F;            // the bias of a key that is not there

struct Constants {
  float product;     // c
  float key_bias;    // -b
  float attraction;  // a
  float distance;    // d
  bool plain;        // alpha = beta = 0

  explicit Constants(const Problem& problem)
      : product((problem.scale + 2 * problem.beta * problem.delta) * kLog2E),
        key_bias(-problem.beta * problem.delta * kLog2E),
        attraction(problem.alpha * kLog2E),
        distance(problem.delta * kLog2E),
        plain(problem.alpha == 0 && problem.beta == 0) {}

  // -b |x|^2. Plain attention has no such term, so a square that overflows must not become 0 times infinity there.
  template <class Real>
  Real bias(Real norm2) const {
    return plain ? 0 : key_bias * norm2;
  }

  // The largest c S - b |k|^2 that a query of norm |q| can have with keys no
  // longer than `longest_key`: S <= |q| |k|.
  float bound(float query_norm, float longest_key) const { return parabola(product * query_norm, longest_key); }

  // The same by what keys have beside their mean m: with k = m + u it is
  // c q m - b |m|^2 + (c q - 2 b m) u - b |u|^2, and |u| <= `spread`.
  float bound(float query_norm2, float query_centre, float centre_norm2, float spread) const {
    const float slope = product * (product * query_norm2 + 4 * key_bias * query_centre) + 4 * key_bias * key_bias * centre_norm2;
    const float flat = product * query_centre, bent = key_bias * centre_norm2, rest = parabola(std::sqrt(slope > 0 ? slope : 0), spread);
    const bool sure = std::fabs(flat) - bent + rest < kLargestBound;
    return sure ? flat + bent + rest : std::numeric_limits<float>::infinity();
  }

 private:
  // The largest peak x - b x^2 with x <= `longest`; the maximum lies at peak / (2 b).
  float parabola(float peak, float longest) const {
    const float x = peak < -2 * key_bias * longest ? peak / (-2 * key_bias) : longest;
    return (peak + key_bias * x) * x;
  }
};

// A row's log-sum-exp from the sum of its 2^(y + offset). In double, because the offset is large where the result is small.
inline float row_lse(const Constants& constants, float sum, float offset, float query_norm2) {
  const double constant = constants.bias<double>(query_norm2) - offset;
  return static_cast<float>(std::log(static_cast<double>(sum)) + 0.693147180559945309417 * constant);
}

// The constant of a row in log2 P, -b |q|^2 - lse log2(e), as an integer and a fraction.
struct RowConstant {
  float shift, fraction;
};
inline RowConstant row_constant(const Constants& constants, float lse, float query_norm2) {
  const double constant = constants.bias<double>(query_norm2) - 1.44269504088896340736 * lse;
  const double shift = std::floor(constant);
  return {static_cast<float>(shift), static_cast<float>(constant - shift)};
}

// The probabilities of one row, from its products S_j (`products`, overwritten)
// and |k_j|^2 (`key_norms`): out[j - first] for keys first..count. The arrays
// have room for a multiple of the vector's width.
[[gnu::noinline]] inline void row_probabilities(const Constants constants, float* products, const float* key_norms, float query_norm2,
                                                std::int64_t count, std::int64_t first, float* out) {
  const std::int64_t padded = (count + Simd::kWidth - 1) / Simd::kWidth * Simd::kWidth;
  for (std::int64_t j = 0; j < padded; j += Simd::kWidth) {
    const Simd::Vector s = Simd::load(products + j), norm = Simd::load(key_norms + j);
    const Simd::Vector bias = constants.plain ? Simd::zero() : Simd::mul(norm, Simd::set1(constants.key_bias));
    Simd::Vector y = Simd::fma(s, Simd::set1(constants.product), bias);
    const Simd::Vector distance = Simd::sub(Simd::add(norm, Simd::set1(query_norm2)), Simd::add(s, s));
    const Simd::Vector z = Simd::min(Simd::mul(distance, Simd::set1(-constants.distance)), Simd::zero());
    y = Simd::fma(Simd::exp2(z), Simd::set1(constants.attraction), y);
    Simd::store(products + j, y);
  }
  float highest = products[0];
  for (std::int64_t j = 1; j < count; ++j) highest = products[j] > highest ? products[j] : highest;
  for (std::int64_t j = 0; j < padded; j += Simd::kWidth) {
    Simd::store(products + j, Simd::exp2(Simd::sub(Simd::load(products + j), Simd::set1(highest))));
  }
  double sum = 0;
  for (std::int64_t j = 0; j < count; ++j) sum += products[j];
  const float inverse = static_cast<float>(1 / sum);
  for (std::int64_t j = first; j < count; ++j) out[j - first] = products[j] * inverse;
}

}  // namespace
}  // namespace esat::attention

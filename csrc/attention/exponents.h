// y of a tile of scores. Include a simd_*.h first.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention/scores.h"

namespace esat::attention {
namespace {

// A score's two exponentials in a loop each: with 16 registers (a register tile of at most 12 sums) one loop has too many values, and
// it is so long that the processor sees too few scores at once.
constexpr bool kTwoLoops = Simd::kRows * Simd::kVectors <= 12;

// Of a tile of keys, what their scores need beside the products.
struct KeyTile {
  const float* bias;         // -b |k|^2
  const float* distance;     // -d |k|^2
  const float* least_norms;  // of each group of eight keys, for lanes that vote
  std::int64_t count;
};

[[gnu::noinline]] inline void bias_keys(const Constants& constants, const float* key_norms, std::int64_t count, float* bias,
                                        float* distance) {
  for (std::int64_t j = 0; j < count; ++j) {
    bias[j] = constants.bias(key_norms[j]);
    distance[j] = -constants.distance * key_norms[j];
  }
}

// y of one key for one vector of queries, without the rows' offsets.
inline Simd::Vector exponent(const Constants& constants, Simd::Vector s, float key_bias) {
  return Simd::fma(s, Simd::set1(constants.product), Simd::set1(key_bias));
}

// Scores to y, without the rows' offsets, in place: the first of two loops. a 2^z is 2^(z + log2 a), which saves a register.
// query_distances: log2 a - d |q|^2 of each lane. attractions: a 2^z, or null if Keep is false.
template <bool Keep>
[[gnu::noinline]] void attract(const Constants& constants, const KeyTile& keys, float* scores, int vectors, const float* query_distances,
                               float* attractions) {
  const Simd::Vector product = Simd::set1(constants.product), slope = Simd::set1(2 * constants.distance);
  const Simd::Vector highest = Simd::set1(std::log2(constants.attraction));
  for (int n = 0; n < vectors; ++n) {
    const Simd::Vector query_distance = Simd::load(query_distances + n * Simd::kWidth);
    float* place = scores + n * Simd::kWidth;
    for (std::int64_t j = 0; j < keys.count; ++j, place += vectors * Simd::kWidth) {
      const Simd::Vector s = Simd::load(place);
      const Simd::Vector z = Simd::fma(s, slope, Simd::add(query_distance, Simd::set1(keys.distance[j])));
      const Simd::Vector y = Simd::fma(s, product, Simd::set1(keys.bias[j]));
      const Simd::Vector pull = Simd::exp2(Simd::min(z, highest));
      Simd::store(place, Simd::add(y, pull));
      if constexpr (Keep) Simd::store(attractions + (place - scores), pull);
    }
  }
}

}  // namespace
}  // namespace esat::attention

// Pairs of bf16 in each lane of 32 bits, multiplied and added by one instruction. Include forward_lanes.h first.
#pragma once

#include <algorithm>
#include <cstring>

#include "attention/exp2_bf16.h"
#include "attention/forward_lanes.h"

namespace esat::attention {
namespace {

constexpr float kNegligible = -13.0F;  // a 2^z below a / 8192 is less than bf16 shows

// Whether some 2^z of a group of keys can be worth computing, by its largest product and its shortest key.
template <int NV>
inline bool attracts(const Constants& constants, const float* scores, std::int64_t keys, Simd::Vector query_distance, float least_norm) {
  Simd::Vector highest = Simd::load(scores);
  for (std::int64_t j = 1; j < keys; ++j) highest = Simd::max(highest, Simd::load(scores + j * NV * Simd::kWidth));
  const Simd::Vector norms = Simd::add(query_distance, Simd::set1(-constants.distance * least_norm));
  const Simd::Vector z = Simd::fma(highest, Simd::set1(2 * constants.distance), norms);
  return !Simd::all_within(z, -3e38F, kNegligible);
}

struct Pairs {
  static constexpr int kCount = 2;

  static __m512 exp2(__m512 x) { return exp2_cubic(x); }

  static __m512 mac(__m512 a, __m512 b, __m512 sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  // Lane by lane bf16(first), bf16(second).
  static __m512 pair(__m512 first, __m512 second) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                                           18, 2, 17, 1, 16, 0);
    const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves));
  }

  // The sum of both.
  static __m512 total(__m512 pairs) {
    const __m512i bits = _mm512_castps_si512(pairs);
    const __m512i second = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000U)));
    return _mm512_add_ps(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)), _mm512_castsi512_ps(second));
  }

  static const float* words(const void* start, std::int64_t at, std::int64_t dim, const float*, float* packed) {
    std::memcpy(packed, static_cast<const std::uint16_t*>(start) + at, static_cast<std::size_t>(dim) * sizeof(std::uint16_t));
    return packed;
  }

  // Scores to probabilities, and their sums; constants are copies, as in weigh(). Pairs take the place of the rows that they came from, or
  // of earlier ones.
  template <int NV, bool Attraction>
  [[gnu::noinline]] static void probabilities(const Constants constants, const KeyTile keys, float* scores, Queries& rows,
                                              Counters& counters) {
    constexpr int kLanes = NV * Simd::kWidth;
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) {
      const Simd::Vector offset = Simd::load(rows.offset + n * Simd::kWidth), distance = Simd::load(rows.distance + n * Simd::kWidth);
      Simd::Vector sum = Simd::zero(), rounded = Simd::zero();
      const auto fill = [&]<bool Attracts>(std::int64_t first, std::int64_t end) {
        const auto probability = [&](std::int64_t j) {
          const Simd::Vector s = Simd::load(scores + j * kLanes + n * Simd::kWidth);
          Simd::Vector y = exponent(constants, s, keys.bias[j]);
          if constexpr (Attracts) y = Simd::add(y, attraction<Pairs>(constants, s, distance, keys.distance[j]));
          const Simd::Vector p = exp2(Simd::add(y, offset));
          sum = Simd::add(sum, p);
          return p;
        };
        for (std::int64_t j = first; j < end; j += 2) {
          const Simd::Vector one = probability(j), p = pair(one, j + 1 < end ? probability(j + 1) : Simd::zero());
          rounded = Simd::add(rounded, total(p));
          Simd::store(scores + j / 2 * kLanes + n * Simd::kWidth, p);
        }
      };
      for (std::int64_t first = 0; first < keys.count; first += kGroup) {
        const std::int64_t end = first + kGroup < keys.count ? first + kGroup : keys.count;
        bool counts = Attraction;
        if constexpr (Attraction) {
          counts =
              attracts<NV>(constants, scores + first * kLanes + n * Simd::kWidth, end - first, distance, keys.least_norms[first / kGroup]);
          counters.skipped_blocks += !counts;
          ++counters.blocks;
        }
        if (counts) {
          fill.template operator()<Attraction>(first, end);
        } else {
          fill.template operator()<false>(first, end);
        }
      }
      add_to(rows.sum + n * Simd::kWidth, sum);
      add_to(rows.rounded_sum + n * Simd::kWidth, rounded);
    }
  }

  // Keys as rows of pairs along the head dimension, values as rows of pairs of neighbouring keys; a last odd key is paired with zeros.
  static Head prepare(const Problem& problem, Head::Source key, Head::Source value, std::int64_t batch, std::int64_t head,
                      Head::Room room) {
    const std::int64_t n = problem.tokens, dim = problem.head_dim;
    const std::uint16_t* keys = static_cast<const std::uint16_t*>(key.start) + batch * key.strides.batch + head * key.strides.head;
    const std::uint16_t* values = static_cast<const std::uint16_t*>(value.start) + batch * value.strides.batch + head * value.strides.head;
    float line[128];
    float longest = 0;
    for (std::int64_t j = 0; j < n; ++j) {
      const std::uint16_t* row = keys + j * key.strides.token;
      if (j + kRowsAhead < n) {
        prefetch_row(keys, problem.dtype, (j + kRowsAhead) * key.strides.token, dim);
        prefetch_row(values, problem.dtype, (j + kRowsAhead) * value.strides.token, dim);
      }
      std::memcpy(room.keys + j * (dim / 2), row, static_cast<std::size_t>(dim) * sizeof(std::uint16_t));
      for (std::int64_t d = 0; d < dim; ++d) line[d] = from_bf16(row[d]);
      room.key_norms[j] = dot(line, line, dim);
      longest = room.key_norms[j] > longest ? room.key_norms[j] : longest;
    }
    std::fill(room.keys + n * (dim / 2), room.keys + round_up(n, kRowsStep) * (dim / 2), 0.0F);
    for (std::int64_t j = n; j < round_up(n, 64); ++j) room.key_norms[j] = 0;
    for (std::int64_t j = 0; j < n; j += kGroup) {
      room.least_norms[j / kGroup] = *std::min_element(room.key_norms + j, room.key_norms + std::min(j + kGroup, n));
    }
    for (std::int64_t j = 0; j < n; j += 2) {
      const std::uint16_t* first = values + j * value.strides.token;
      const std::uint16_t* second = j + 1 < n ? first + value.strides.token : nullptr;
      for (std::int64_t d = 0; d < dim; ++d) {
        const std::uint32_t high = second == nullptr ? 0 : second[d];
        room.values[j / 2 * dim + d] = float_from_bits(high << 16 | first[d]);
      }
    }
    Head result{};
    result.keys = room.keys;
    result.values = room.values;
    result.key_stride = dim / 2;
    result.value_stride = dim;
    result.key_norms = room.key_norms;
    result.least_norms = room.least_norms;
    result.longest_key = std::sqrt(longest);
    return result;
  }
};

}  // namespace
}  // namespace esat::attention

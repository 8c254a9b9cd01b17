// The forward kernel for vector units, in float32 inside: queries lie in the
// lanes, keys stream by, so that row sums need no shuffles and the bias of a
// key is one broadcast. Included once per instruction set, after its simd_*.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention/convert.h"
#include "attention/head.h"
#include "attention/kernels.h"
#include "attention/product.h"
#include "attention/scores.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kKeyBlock = 64;  // with 48 queries: scores, queries and output are 12 KB each at D = 64,
                                        // all in L1
constexpr std::int64_t kMaxRows = Simd::kVectors * Simd::kWidth;
constexpr std::int64_t kGroup = 8;     // keys that are asked at once whether their attraction counts
constexpr float kNegligible = -13.0F;  // a 2^z below a / 8192 is less than bf16 shows

struct ForwardWorkspace {
  float *queries, *scores, *out, *key_norms, *least_norms, *row, *keys, *values;

  // Carves the arrays out of `memory` (may be null) and returns the floats needed.
  std::int64_t carve(const Problem& problem, float* memory) {
    const std::int64_t padded = round_up(problem.tokens, 64);
    const std::int64_t copy = problem.dtype == Dtype::f32 ? 0 : round_up(problem.tokens * problem.head_dim, 16);
    std::int64_t used = 0;
    const auto take = [&](std::int64_t count) {
      float* start = memory == nullptr ? nullptr : memory + used;
      used += count;
      return start;
    };
    queries = take(problem.head_dim * kMaxRows);
    scores = take(kKeyBlock * kMaxRows);
    out = take(problem.head_dim * kMaxRows);
    key_norms = take(padded);
    least_norms = take(padded / kGroup);
    row = take(padded);
    keys = take(copy);
    values = take(copy);
    return used;
  }
};

// Whether some 2^z of a group of keys can be worth computing, by its largest product and its shortest key.
template <int NV>
inline bool attracts(const Constants& constants, const float* scores, std::int64_t keys, Simd::Vector query_distance, float least_norm) {
  Simd::Vector highest = Simd::load(scores);
  for (std::int64_t j = 1; j < keys; ++j) highest = Simd::max(highest, Simd::load(scores + j * NV * Simd::kWidth));
  const Simd::Vector norms = Simd::add(query_distance, Simd::set1(-constants.distance * least_norm));
  const Simd::Vector z = Simd::fma(highest, Simd::set1(2 * constants.distance), norms);
  return !Simd::all_within(z, -3e38F, kNegligible);
}

// Per lane: |q|^2, what it adds to z, the row's offset -m (an integer, so that adding it to an
// exponent is exact), its sum.
struct Queries {
  alignas(64) float norm2[kMaxRows];
  alignas(64) float distance[kMaxRows];
  alignas(64) float offset[kMaxRows];
  alignas(64) float sum[kMaxRows];
  alignas(64) float rounded_sum[kMaxRows];  // of pairs: of the rounded terms that meet v, so that a dominant term's rounding cancels
};

// y of one key for one vector of queries, without the rows' offsets.
inline Simd::Vector exponent(const Constants& constants, Simd::Vector s, float key_norm) {
  return Simd::fma(s, Simd::set1(constants.product), Simd::set1(constants.key_bias * key_norm));
}

// a 2^z of them. query_distance: -d |q|^2.
template <class Lanes>
inline Simd::Vector attraction(const Constants& constants, Simd::Vector s, Simd::Vector query_distance, float key_norm) {
  const Simd::Vector norms = Simd::add(query_distance, Simd::set1(-constants.distance * key_norm));
  const Simd::Vector z = Simd::fma(s, Simd::set1(2 * constants.distance), norms);
  return Simd::mul(Lanes::exp2(Simd::min(z, Simd::zero()), Simd::zero()), Simd::set1(constants.attraction));
}

// Operands as floats, whatever the problem's type.
struct Floats : Singles {
  static constexpr bool kVotes = false;  // what an attraction must be to show in float32 is too little to leave many out
  static Simd::Vector exp2(Simd::Vector x, Simd::Vector shift) { return Simd::exp2(x, shift); }
  // The lanes of a query that lies at `start` + `at`, and in `line` as floats.
  static const float* words(const void*, std::int64_t, std::int64_t, const float* line, float*) { return line; }
  static Head prepare(const Problem& problem, Head::Source key, Head::Source value, std::int64_t batch, std::int64_t head,
                      Head::Room room) {
    return prepare_head(problem, key, value, batch, head, room);
  }
};

// Replaces the bound by the exact maximum of each row.
template <class Lanes, int NV, bool Attraction>
void exact_offsets(const Constants& constants, const Problem& problem, const Head& head, const ForwardWorkspace& work, Queries& rows) {
  constexpr int kLanes = NV * Simd::kWidth;
  Simd::Vector highest[NV];
  for (int n = 0; n < NV; ++n) highest[n] = Simd::set1(-3e38F);
  for (std::int64_t start = 0; start < problem.tokens; start += kKeyBlock) {
    const std::int64_t keys = problem.tokens - start < kKeyBlock ? problem.tokens - start : kKeyBlock;
    product<NV, false, Lanes>(head.keys + start * head.key_stride, head.key_stride, 1, Rows{work.queries, kLanes}, keys,
                              problem.head_dim / Lanes::kCount, Rows{work.scores, kLanes});
    for (std::int64_t j = 0; j < keys; ++j) {
      const float norm = head.key_norms[start + j];
      for (int n = 0; n < NV; ++n) {
        const Simd::Vector s = Simd::load(work.scores + j * kLanes + n * Simd::kWidth);
        Simd::Vector y = exponent(constants, s, norm);
        if (Attraction) y = Simd::add(y, attraction<Lanes>(constants, s, Simd::load(rows.distance + n * Simd::kWidth), norm));
        highest[n] = Simd::max(highest[n], y);
      }
    }
  }
  for (int n = 0; n < NV; ++n) Simd::store(rows.offset + n * Simd::kWidth, Simd::floor(Simd::sub(Simd::zero(), highest[n])));
}

// out (unnormalised) and sums of one block of queries. record: the lane whose
// products are kept in work.row, or -1.
template <class Lanes, int NV, bool Attraction>
void attend(const Constants& constants, const Problem& problem, const Head& head, const ForwardWorkspace& work, Queries& rows, int record,
            Counters& counters) {
  constexpr int kLanes = NV * Simd::kWidth;
  for (std::int64_t i = 0; i < problem.head_dim * kLanes; ++i) work.out[i] = 0;
  for (int i = 0; i < kLanes; ++i) rows.sum[i] = rows.rounded_sum[i] = 0;
  for (std::int64_t start = 0; start < problem.tokens; start += kKeyBlock) {
    const std::int64_t keys = problem.tokens - start < kKeyBlock ? problem.tokens - start : kKeyBlock;
    product<NV, false, Lanes>(head.keys + start * head.key_stride, head.key_stride, 1, Rows{work.queries, kLanes}, keys,
                              problem.head_dim / Lanes::kCount, Rows{work.scores, kLanes});
    if (record >= 0) {
      for (std::int64_t j = 0; j < keys; ++j) work.row[start + j] = work.scores[j * kLanes + record];
    }
    Simd::Vector sum[NV], rounded[NV], offset[NV], distance[NV];
    for (int n = 0; n < NV; ++n) {
      sum[n] = rounded[n] = Simd::zero();
      offset[n] = Simd::load(rows.offset + n * Simd::kWidth);
      distance[n] = Simd::load(rows.distance + n * Simd::kWidth);
    }
    const auto fill = [&]<bool Attracts>(std::int64_t first, std::int64_t end, int n) {
      const auto probability = [&](std::int64_t j) {
        const Simd::Vector s = Simd::load(work.scores + j * kLanes + n * Simd::kWidth);
        const float norm = head.key_norms[start + j];
        Simd::Vector y = exponent(constants, s, norm);
        if (Attracts) y = Simd::add(y, attraction<Lanes>(constants, s, distance[n], norm));
        const Simd::Vector p = Lanes::exp2(y, offset[n]);
        sum[n] = Simd::add(sum[n], p);
        return p;
      };
      for (std::int64_t j = first; j < end;
           j += Lanes::kCount) {  // pairs take the place of the rows that they came from, or of earlier ones
        Simd::Vector p = probability(j);
        if constexpr (Lanes::kCount == 2) {
          p = Lanes::pair(p, j + 1 < end ? probability(j + 1) : Simd::zero());
          rounded[n] = Simd::add(rounded[n], Lanes::total(p));
        }
        Simd::store(work.scores + j / Lanes::kCount * kLanes + n * Simd::kWidth, p);
      }
    };
    for (std::int64_t first = 0; first < keys; first += kGroup) {
      const std::int64_t end = first + kGroup < keys ? first + kGroup : keys;
#pragma GCC unroll 4
      for (int n = 0; n < NV; ++n) {
        bool counts = Attraction;
        if constexpr (Attraction && Lanes::kVotes) {
          const float* scores = work.scores + first * kLanes + n * Simd::kWidth;
          counts = attracts<NV>(constants, scores, end - first, distance[n], head.least_norms[(start + first) / kGroup]);
          counters.skipped_blocks += !counts;
          ++counters.blocks;
        }
        if (counts) {
          fill.template operator()<Attraction>(first, end, n);
        } else {
          fill.template operator()<false>(first, end, n);
        }
      }
    }
    for (int n = 0; n < NV; ++n) {  // one sum per block of keys, then their sum:
                                    // rounding grows with the block, not with N
      float* place = rows.sum + n * Simd::kWidth;
      Simd::store(place, Simd::add(Simd::load(place), sum[n]));
      float* rounded_place = rows.rounded_sum + n * Simd::kWidth;
      if constexpr (Lanes::kCount == 2) Simd::store(rounded_place, Simd::add(Simd::load(rounded_place), rounded[n]));
    }
    product<NV, true, Lanes>(head.values + start / Lanes::kCount * head.value_stride, 1, head.value_stride, Rows{work.scores, kLanes},
                             problem.head_dim, (keys + Lanes::kCount - 1) / Lanes::kCount, Rows{work.out, kLanes});
  }
}

template <class Lanes, int NV, bool Attraction>
void block(const Constants& constants, const Forward& call, std::int64_t batch, std::int64_t head_index, std::int64_t first,
           std::int64_t count, const Head& head, const ForwardWorkspace& work, int record, Counters& counters) {
  constexpr int kLanes = NV * Simd::kWidth;
  const Problem& problem = call.problem;
  const std::int64_t dim = problem.head_dim;
  Queries rows;
  float line[128], packed[64];
  const std::int64_t query_start = batch * call.query_strides.batch + head_index * call.query_strides.head;
  for (int i = 0; i < kLanes; ++i) {
    const std::int64_t token = first + (i < count ? i : count - 1);  // spare lanes repeat the last query, so
                                                                     // that they cannot fail the check
    if (i + kRowsAhead < count) prefetch_row(call.query, problem.dtype, query_start + (token + kRowsAhead) * call.query_strides.token, dim);
    read_floats(call.query, problem.dtype, query_start + token * call.query_strides.token, dim, line);
    const float* words = Lanes::words(call.query, query_start + token * call.query_strides.token, dim, line, packed);
    for (std::int64_t d = 0; d < dim / Lanes::kCount; ++d) work.queries[d * kLanes + i] = words[d];
    rows.norm2[i] = dot(line, line, dim);
    rows.distance[i] = -constants.distance * rows.norm2[i];
    rows.offset[i] = __builtin_floorf(kHeadroom - constants.attraction - constants.bound(std::sqrt(rows.norm2[i]), head.longest_key));
  }
  attend<Lanes, NV, Attraction>(constants, problem, head, work, rows, record, counters);
  bool sound = true;
  for (int n = 0; n < NV; ++n) sound = sound && Simd::all_within(Simd::load(rows.sum + n * Simd::kWidth), kLowestSum, kHighestSum);
  if (!sound) {
    exact_offsets<Lanes, NV, Attraction>(constants, problem, head, work, rows);
    attend<Lanes, NV, Attraction>(constants, problem, head, work, rows, -1, counters);
    counters.redone_rows += count;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const float inverse = 1 / (Lanes::kCount == 2 ? rows.rounded_sum : rows.sum)[i];
    const std::int64_t target = batch * call.out_strides.batch + head_index * call.out_strides.head + (first + i) * call.out_strides.token;
    for (std::int64_t d = 0; d < dim; ++d) write_float(call.out, problem.dtype, target + d, work.out[d * kLanes + i] * inverse);
    if (call.lse != nullptr) {
      call.lse[(batch * problem.heads + head_index) * problem.tokens + first + i] =
          row_lse(constants, rows.sum[i], rows.offset[i], rows.norm2[i]);
    }
  }
}

template <class Lanes, bool Attraction>
Counters run_items(const Forward& call, float* probabilities, std::int64_t begin, std::int64_t end, char* workspace) {
  const Problem& problem = call.problem;
  const Constants constants(problem);
  ForwardWorkspace work;
  work.carve(problem, reinterpret_cast<float*>(workspace));
  const std::int64_t items_per_head = (problem.tokens + kMaxRows - 1) / kMaxRows;
  std::int64_t prepared = -1;
  Head head{};
  Counters counters{};
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t index = item / items_per_head, first = item % items_per_head * kMaxRows;
    const std::int64_t batch = index / problem.heads, head_index = index % problem.heads;
    if (index != prepared) {
      head = Lanes::prepare(problem, Head::Source{call.key, call.key_strides}, Head::Source{call.value, call.value_strides}, batch,
                            head_index, Head::Room{work.keys, work.values, work.key_norms, work.least_norms});
      prepared = index;
    }
    const std::int64_t left = problem.tokens - first, count = left < kMaxRows ? left : kMaxRows;
    const bool has_row = probabilities != nullptr && call.template_token >= first && call.template_token < first + count;
    const int record = has_row ? static_cast<int>(call.template_token - first) : -1;
    const std::int64_t vectors = (count + Simd::kWidth - 1) / Simd::kWidth;
    if (vectors == 1) {
      block<Lanes, 1, Attraction>(constants, call, batch, head_index, first, count, head, work, record, counters);
    } else if (vectors == 2 || Simd::kVectors == 2) {
      block<Lanes, 2, Attraction>(constants, call, batch, head_index, first, count, head, work, record, counters);
    } else {
      block<Lanes, Simd::kVectors, Attraction>(constants, call, batch, head_index, first, count, head, work, record, counters);
    }
    if (has_row) {
      for (std::int64_t j = problem.tokens; j < round_up(problem.tokens, 64); ++j) work.row[j] = 0;
      const std::int64_t query = batch * call.query_strides.batch + head_index * call.query_strides.head;
      float line[128];
      read_floats(call.query, problem.dtype, query + call.template_token * call.query_strides.token, problem.head_dim, line);
      row_probabilities(constants, work.row, head.key_norms, dot(line, line, problem.head_dim), problem.tokens, call.num_template,
                        probabilities + index * (problem.tokens - call.num_template));
    }
  }
  return counters;
}

inline std::size_t forward_workspace(const Problem& problem) {
  ForwardWorkspace work;
  return static_cast<std::size_t>(work.carve(problem, nullptr)) * sizeof(float);
}

template <class Lanes = Floats>
Counters run_forward(const Forward& call, float* probabilities, std::int64_t begin, std::int64_t end, char* workspace) {
  return call.problem.alpha > 0 ? run_items<Lanes, true>(call, probabilities, begin, end, workspace)
                                : run_items<Lanes, false>(call, probabilities, begin, end, workspace);
}

}  // namespace
}  // namespace esat::attention

// The forward kernel for vector units, in float32 inside: queries lie in the lanes, keys stream by, so that row sums need no
// shuffles and the bias of a key is one broadcast. Each inner loop is a function of its own, with no more values alive than there are
// registers. Included once per instruction set, after its simd_*.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "attention/columns.h"
#include "attention/convert.h"
#include "attention/exponents.h"
#include "attention/head.h"
#include "attention/kernels.h"
#include "attention/product.h"
#include "attention/scores.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kKeyBlock = 64;  // at D = 64 each product has 16 KB of keys or values, and 12 KB beside them (AVX-512: 24)
constexpr std::int64_t kMaxRows = Simd::kVectors * Simd::kWidth;
constexpr std::int64_t kGroup = 8;  // keys that are asked at once whether their attraction counts, by lanes that vote

struct ForwardWorkspace {
  float *queries, *scores, *out, *key_norms, *key_bias, *key_distance, *least_norms, *row, *keys, *values, *centre;

  // Carves the arrays out of `memory` (may be null) and returns the floats needed.
  std::int64_t carve(const Problem& problem, float* memory) {
    const std::int64_t padded = round_up(problem.tokens, 64);
    std::int64_t used = 0;
    const auto take = [&](std::int64_t count) {
      float* start = memory == nullptr ? nullptr : memory + used;
      used += round_up(count, 16);
      return start;
    };
    queries = take(problem.head_dim * kMaxRows);
    scores = take(kKeyBlock * kMaxRows);
    out = take(problem.head_dim * kMaxRows);
    key_norms = take(padded);
    key_bias = take(padded);
    key_distance = take(padded);
    least_norms = take(padded / kGroup);
    row = take(padded);
    keys = take(round_up(problem.tokens, kRowsStep) * problem.head_dim);
    values = take(round_up(problem.tokens, kRowsStep) * problem.head_dim);
    centre = take(problem.head_dim);
    return used;
  }
};

// Per lane: |q|^2, what it adds to z, the row's offset -m (an integer, so that adding it to an
// exponent is exact), its sum.
struct Queries {
  alignas(64) float norm2[kMaxRows];
  alignas(64) float distance[kMaxRows];  // -d |q|^2, with two loops + log2 a
  alignas(64) float offset[kMaxRows];
  alignas(64) float sum[kMaxRows];
  alignas(64) float rounded_sum[kMaxRows];  // of pairs: of the rounded terms that meet v, so that a dominant term's rounding cancels
};

// a 2^z of them. query_distance: -d |q|^2.
template <class Lanes>
inline Simd::Vector attraction(const Constants& constants, Simd::Vector s, Simd::Vector query_distance, float key_distance) {
  const Simd::Vector norms = Simd::add(query_distance, Simd::set1(key_distance));
  const Simd::Vector z = Simd::fma(s, Simd::set1(2 * constants.distance), norms);
  return Simd::mul(Lanes::exp2(Simd::min(z, Simd::zero())), Simd::set1(constants.attraction));
}

// One sum per tile of keys, then their sum: rounding grows with the tile, not with N.
inline void add_to(float* total, Simd::Vector sum) { Simd::store(total, Simd::add(Simd::load(total), sum)); }

// y, or without attraction scores, to probabilities in place, and their sums: the second.
template <int NV, bool Attracted>
[[gnu::noinline]] void exponentiate(const Constants& constants, const KeyTile& keys, float* scores, Queries& rows) {
  for (int n = 0; n < NV; ++n) {
    const Simd::Vector offset = Simd::load(rows.offset + n * Simd::kWidth);
    Simd::Vector sum = Simd::zero();
    float* place = scores + n * Simd::kWidth;
    for (std::int64_t j = 0; j < keys.count; ++j, place += NV * Simd::kWidth) {
      Simd::Vector y = Simd::load(place);
      if constexpr (!Attracted) y = exponent(constants, y, keys.bias[j]);
      const Simd::Vector p = Simd::exp2(y, offset);
      sum = Simd::add(sum, p);
      Simd::store(place, p);
    }
    add_to(rows.sum + n * Simd::kWidth, sum);
  }
}

// Both in one loop. Constants are copies: what stores could change would be read anew for each score.
template <int NV, bool Attraction>
[[gnu::noinline]] void weigh(const Constants constants, const KeyTile keys, float* scores, Queries& rows) {
  for (int n = 0; n < NV; ++n) {
    const Simd::Vector offset = Simd::load(rows.offset + n * Simd::kWidth), distance = Simd::load(rows.distance + n * Simd::kWidth);
    Simd::Vector sum = Simd::zero();
    float* place = scores + n * Simd::kWidth;
    for (std::int64_t j = 0; j < keys.count; ++j, place += NV * Simd::kWidth) {
      const Simd::Vector s = Simd::load(place);
      Simd::Vector y = exponent(constants, s, keys.bias[j]);
      if constexpr (Attraction) y = Simd::add(y, attraction<Simd>(constants, s, distance, keys.distance[j]));
      const Simd::Vector p = Simd::exp2(y, offset);
      sum = Simd::add(sum, p);
      Simd::store(place, p);
    }
    add_to(rows.sum + n * Simd::kWidth, sum);
  }
}

// Operands as floats, whatever the problem's type.
struct Floats : Singles {
  static Simd::Vector exp2(Simd::Vector x) { return Simd::exp2(x); }
  // The lanes of a query that lies at `start` + `at`, and in `line` as floats.
  static const float* words(const void*, std::int64_t, std::int64_t, const float* line, float*) { return line; }
  static Head prepare(const Problem& problem, Head::Source key, Head::Source value, std::int64_t batch, std::int64_t head,
                      Head::Room room) {
    Head prepared = prepare_head(problem, key, value, batch, head, room);
    find_centre(problem, room.centre, prepared);
    return prepared;
  }
  // Scores to probabilities in place, and their sums. What an attraction must be to show in float32 is too little to leave many out.
  template <int NV, bool Attraction>
  static void probabilities(const Constants& constants, const KeyTile& keys, float* scores, Queries& rows, Counters&) {
    if constexpr (kTwoLoops) {
      if constexpr (Attraction) attract<false>(constants, keys, scores, NV, rows.distance, nullptr);
      exponentiate<NV, Attraction>(constants, keys, scores, rows);
    } else {
      weigh<NV, Attraction>(constants, keys, scores, rows);
    }
  }
};

// Raises `highest`, one value a lane, to the scores' y.
template <class Lanes, int NV, bool Attraction>
[[gnu::noinline]] void raise(const Constants& constants, const KeyTile& keys, const float* scores, const Queries& rows, float* highest) {
  for (int n = 0; n < NV; ++n) {
    Simd::Vector most = Simd::load(highest + n * Simd::kWidth);
    const Simd::Vector distance = Simd::load(rows.distance + n * Simd::kWidth);
    const float* place = scores + n * Simd::kWidth;
    for (std::int64_t j = 0; j < keys.count; ++j, place += NV * Simd::kWidth) {
      Simd::Vector y = Simd::load(place);
      if constexpr (!(Attraction && kTwoLoops)) {
        const Simd::Vector s = y;
        y = exponent(constants, s, keys.bias[j]);
        if constexpr (Attraction) y = Simd::add(y, attraction<Lanes>(constants, s, distance, keys.distance[j]));
      }
      most = Simd::max(most, y);
    }
    Simd::store(highest + n * Simd::kWidth, most);
  }
}

// The products of one block of queries with a tile of keys, with two loops also their y.
template <class Lanes, int NV>
KeyTile score(const Problem& problem, const Head& head, const ForwardWorkspace& work, std::int64_t start) {
  constexpr int kLanes = NV * Simd::kWidth;
  const std::int64_t left = problem.tokens - start, keys = left < kKeyBlock ? left : kKeyBlock;
  product<NV, false, Lanes>(head.keys + start * head.key_stride, head.key_stride, One{}, Lines<NV>{work.queries}, round_up(keys, kRowsStep),
                            problem.head_dim / Lanes::kCount, Rows{work.scores, kLanes});
  return KeyTile{work.key_bias + start, work.key_distance + start, work.least_norms + start / kGroup, keys};
}

// Replaces the bound by the exact maximum of each row.
template <class Lanes, int NV, bool Attraction>
void exact_offsets(const Constants& constants, const Problem& problem, const Head& head, const ForwardWorkspace& work, Queries& rows) {
  for (int i = 0; i < NV * Simd::kWidth; ++i) rows.offset[i] = -std::numeric_limits<float>::infinity();
  for (std::int64_t start = 0; start < problem.tokens; start += kKeyBlock) {
    const KeyTile keys = score<Lanes, NV>(problem, head, work, start);
    if constexpr (Attraction && kTwoLoops) attract<false>(constants, keys, work.scores, NV, rows.distance, nullptr);
    raise<Lanes, NV, Attraction>(constants, keys, work.scores, rows, rows.offset);
  }
  for (int n = 0; n < NV; ++n) {
    float* offset = rows.offset + n * Simd::kWidth;
    Simd::store(offset, Simd::floor(Simd::sub(Simd::zero(), Simd::load(offset))));
  }
}

// out (unnormalised) and sums of one block of queries. record: the lane whose
// products are kept in work.row, or -1.
template <class Lanes, int NV, bool Attraction>
void attend(const Constants& constants, const Problem& problem, const Head& head, const ForwardWorkspace& work, Queries& rows, int record,
            Counters& counters) {
  constexpr int kLanes = NV * Simd::kWidth;
  for (std::int64_t i = 0; i < problem.head_dim * kLanes; ++i) work.out[i] = 0;
  // 0, or NaN where a row has no finite offset: all of its scores are -inf, or one is +inf. Not every set's exp2 would show it.
  for (int i = 0; i < kLanes; ++i) rows.sum[i] = rows.rounded_sum[i] = rows.offset[i] - rows.offset[i];
  for (std::int64_t start = 0; start < problem.tokens; start += kKeyBlock) {
    const KeyTile keys = score<Lanes, NV>(problem, head, work, start);
    if (record >= 0) {
      for (std::int64_t j = 0; j < keys.count; ++j) work.row[start + j] = work.scores[j * kLanes + record];
    }
    Lanes::template probabilities<NV, Attraction>(constants, keys, work.scores, rows, counters);
    product<NV, true, Lanes>(head.values + start / Lanes::kCount * head.value_stride, One{}, head.value_stride, Lines<NV>{work.scores},
                             problem.head_dim, (keys.count + Lanes::kCount - 1) / Lanes::kCount, Rows{work.out, kLanes});
  }
}

// The queries' lanes, norms and bounds.
template <class Lanes, int NV>
[[gnu::noinline]] void load_queries(const Constants& constants, const Forward& call, std::int64_t start, std::int64_t count,
                                    const Head& head, float* queries, Queries& rows) {
  const Problem& problem = call.problem;
  const std::int64_t dim = problem.head_dim, words = dim / Lanes::kCount;
  const float distance = kTwoLoops && constants.attraction > 0 ? std::log2(constants.attraction) : 0;
  float line[128], packed[64];
  alignas(64) float lines[Simd::kWidth * 128];
  for (int n = 0; n < NV; ++n) {
    for (int lane = 0; lane < Simd::kWidth; ++lane) {
      const int i = n * Simd::kWidth + lane;
      // Spare lanes repeat the last query, so that they cannot fail the check.
      const std::int64_t at = start + (i < count ? i : count - 1) * call.query_strides.token;
      if (i + kRowsAhead < count) prefetch_row(call.query, problem.dtype, at + kRowsAhead * call.query_strides.token, dim);
      read_floats(call.query, problem.dtype, at, dim, line);
      std::memcpy(lines + lane * 128, Lanes::words(call.query, at, dim, line, packed), static_cast<std::size_t>(words) * sizeof(float));
      rows.norm2[i] = dot(line, line, dim);
      rows.distance[i] = distance - constants.distance * rows.norm2[i];
      float bound = constants.bound(std::sqrt(rows.norm2[i]), head.longest_key);
      if (head.centre != nullptr) {
        const float centred = constants.bound(rows.norm2[i], dot(line, head.centre, dim), head.centre_norm2, head.spread);
        bound = centred < bound ? centred : bound;  // a NaN of another key stays out
      }
      const bool sure = std::fabs(bound) < kLargestBound;
      rows.offset[i] = sure ? __builtin_floorf(kHeadroom - constants.attraction - bound) : std::numeric_limits<float>::quiet_NaN();
    }
    to_columns<Simd>(lines, 128, words, queries + n * Simd::kWidth, NV * Simd::kWidth);
  }
}

// The block's output, divided by the rows' sums.
template <int NV>
[[gnu::noinline]] void write_rows(const Forward& call, std::int64_t start, std::int64_t count, const float* out, const float* sums) {
  const Problem& problem = call.problem;
  alignas(64) float lines[Simd::kWidth * 128], scaled[Simd::kWidth * 128];
  for (int n = 0; n < NV; ++n) {
    const Simd::Vector inverse = Simd::div(Simd::set1(1.0F), Simd::load(sums + n * Simd::kWidth));
    for (std::int64_t d = 0; d < problem.head_dim; ++d) {
      Simd::store(scaled + d * Simd::kWidth, Simd::mul(Simd::load(out + (d * NV + n) * Simd::kWidth), inverse));
    }
    to_rows<Simd>(scaled, Simd::kWidth, problem.head_dim, lines, 128);
    for (std::int64_t i = n * Simd::kWidth; i < count && i < (n + 1) * Simd::kWidth; ++i) {
      write_floats(call.out, problem.dtype, start + i * call.out_strides.token, problem.head_dim, lines + (i - n * Simd::kWidth) * 128);
    }
  }
}

template <class Lanes, int NV, bool Attraction>
void block(const Constants& constants, const Forward& call, std::int64_t batch, std::int64_t head_index, std::int64_t first,
           std::int64_t count, const Head& head, const ForwardWorkspace& work, int record, Counters& counters) {
  const Problem& problem = call.problem;
  Queries rows;
  const auto start = [&](const Strides& strides) { return batch * strides.batch + head_index * strides.head + first * strides.token; };
  load_queries<Lanes, NV>(constants, call, start(call.query_strides), count, head, work.queries, rows);
  attend<Lanes, NV, Attraction>(constants, problem, head, work, rows, record, counters);
  bool sound = true;
  for (int n = 0; n < NV; ++n) sound = sound && Simd::all_within(Simd::load(rows.sum + n * Simd::kWidth), kLowestSum, kHighestSum);
  if (!sound) {
    exact_offsets<Lanes, NV, Attraction>(constants, problem, head, work, rows);
    attend<Lanes, NV, Attraction>(constants, problem, head, work, rows, -1, counters);
    counters.redone_rows += count;
  }
  write_rows<NV>(call, start(call.out_strides), count, work.out, Lanes::kCount == 2 ? rows.rounded_sum : rows.sum);
  if (call.lse == nullptr) return;
  float* lse = call.lse + (batch * problem.heads + head_index) * problem.tokens + first;
  for (std::int64_t i = 0; i < count; ++i) lse[i] = row_lse(constants, rows.sum[i], rows.offset[i], rows.norm2[i]);
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
                            head_index, Head::Room{work.keys, work.values, work.key_norms, work.least_norms, work.centre});
      bias_keys(constants, head.key_norms, problem.tokens, work.key_bias, work.key_distance);
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

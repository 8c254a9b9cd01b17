// The forward kernel for AMX-bf16: 32 queries at a time against steps of 32 keys. Products on the tiles, exponentials in AVX-512, written
// so that the tiles' work on the next step's scores and the previous block's output lies between the exponentials of this step. Where time
// goes, N = 720, 12 heads, one thread of a 2-core Xeon with AMX: 0.5 ms packing and writing, 0.45 exponentials, 0.65 scores, 0.65 output.
// They hardly overlap: while tiles are in use, 512-bit float instructions issue on one port of two. Doing the tiles' work in phases of 4 to
// 8 steps changed nothing.

#include "attention/amx.h"
#include "attention/exp2_bf16.h"
#include "common/simd_avx512.h"

#include "attention/convert.h"
#include "attention/kernels.h"
#include "attention/scores.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kRows = 32;
constexpr std::int64_t kStepKeys = 32;
constexpr std::int64_t kBlockSteps = 4;  // probabilities of 128 keys are kept before they meet the values
constexpr float kNegligible = -13.0F;    // a 2^z below a / 8192 is less than bf16 shows

// Arrays of one thread. Tiles are 1 KB: keys [key tile][32 of D], values
// [step][16 of D], probabilities [block parity][step][query tile].
struct Workspace {
  std::uint16_t *queries, *keys, *values, *ones, *probabilities;
  float *scores, *out, *sums, *start, *key_bias, *key_distance, *key_norms, *row;
  std::int64_t tokens_padded, d32, d16;

  std::int64_t carve(const Problem& problem, char* memory) {
    tokens_padded = round_up(problem.tokens, kStepKeys);
    d32 = round_up(problem.head_dim, 32) / 32;
    d16 = round_up(problem.head_dim, 16) / 16;
    const std::int64_t steps = tokens_padded / kStepKeys;
    Carver from{memory};
    queries = from.tiles(2 * d32);
    scores = reinterpret_cast<float*>(from.tiles(2 * 4));
    probabilities = from.tiles(2 * kBlockSteps * 2);
    out = reinterpret_cast<float*>(from.tiles(2 * (d16 + 1)));
    sums = reinterpret_cast<float*>(from.tiles(2));
    start = reinterpret_cast<float*>(from.tiles(2));
    ones = from.tiles(1);
    keys = from.tiles(2 * steps * d32);
    values = from.tiles(steps * d16);
    key_bias = from.floats(tokens_padded);
    key_distance = from.floats(tokens_padded);
    key_norms = from.floats(tokens_padded);
    row = from.floats(tokens_padded);
    return from.used;
  }
};

// Packs one head's keys and values; returns the longest key's norm.
float prepare_head(const Forward& call, const Constants& constants, std::int64_t batch, std::int64_t head, const Workspace& work) {
  const Problem& problem = call.problem;
  const auto* keys = static_cast<const std::uint16_t*>(call.key) + batch * call.key_strides.batch + head * call.key_strides.head;
  const auto* values = static_cast<const std::uint16_t*>(call.value) + batch * call.value_strides.batch + head * call.value_strides.head;
  __m512 longest = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < work.tokens_padded; j += 16) {
    const std::int64_t rows = problem.tokens - j;
    __m512 norm = _mm512_setzero_ps();
    for (std::int64_t d = 0; d < work.d32; ++d) {
      norm = pack_transposed(keys + j * call.key_strides.token + d * 32, call.key_strides.token, rows, problem.head_dim - d * 32,
                             work.keys + (j / 16 * work.d32 + d) * 512, norm);
    }
    longest = _mm512_max_ps(longest, norm);
    const __mmask16 there = first_lanes(rows);
    const __m512 masked = _mm512_set1_ps(kMasked);
    const __m512 counted = constants.plain ? _mm512_setzero_ps() : norm;
    const __m512 bias = _mm512_fmadd_ps(counted, _mm512_set1_ps(constants.key_bias), _mm512_set1_ps(kHeadroom - constants.attraction));
    _mm512_store_ps(work.key_norms + j, norm);
    _mm512_store_ps(work.key_bias + j, _mm512_mask_mov_ps(masked, there, bias));
    _mm512_store_ps(work.key_distance + j, _mm512_mask_mul_ps(masked, there, norm, _mm512_set1_ps(-constants.distance)));
  }
  for (std::int64_t j = 0; j < work.tokens_padded; j += kStepKeys) {
    for (std::int64_t d = 0; d < work.d16; ++d) {
      pack_pairs(values + j * call.value_strides.token + d * 16, call.value_strides.token, problem.tokens - j, problem.head_dim - d * 16,
                 work.values + (j / kStepKeys * work.d16 + d) * 512);
    }
  }
  return std::sqrt(_mm512_reduce_max_ps(longest));
}

// Scores of one step: start_i + q_i . k_j as tiles [key half][query tile], 16
// queries by 16 keys each.
inline void score_step(const Workspace& work, std::int64_t step, float* scores) {
  _tile_loadd(0, work.start, 64);
  _tile_loadd(1, work.start + 256, 64);
  _tile_loadd(2, work.start, 64);
  _tile_loadd(3, work.start + 256, 64);
  const std::uint16_t* keys = work.keys + 2 * step * work.d32 * 512;
  for (std::int64_t d = 0; d < work.d32; ++d) {
    _tile_loadd(4, work.queries + d * 512, 64);
    _tile_loadd(6, keys + d * 512, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, work.queries + (work.d32 + d) * 512, 64);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(7, keys + (work.d32 + d) * 512, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, scores, 64);
  _tile_stored(1, scores + 256, 64);
  _tile_stored(2, scores + 512, 64);
  _tile_stored(3, scores + 768, 64);
}

// Adds P V of `steps` steps from `first` to output tiles d and d + 1 of both
// query tiles; the tile after the last is the row sum (V = 1).
inline void output_tiles(const Workspace& work, const std::uint16_t* probabilities, std::int64_t first, std::int64_t steps,
                         std::int64_t d) {
  float* out = work.out + d * 512;
  const bool two = d < work.d16;
  _tile_loadd(0, out, 64);
  _tile_loadd(1, out + 256, 64);
  if (two) {
    _tile_loadd(2, out + 512, 64);
    _tile_loadd(3, out + 768, 64);
  }
  for (std::int64_t s = 0; s < steps; ++s) {
    const std::uint16_t* values = work.values + ((first + s) * work.d16 + d) * 512;
    _tile_loadd(4, probabilities + s * 1024, 64);
    _tile_loadd(5, probabilities + s * 1024 + 512, 64);
    _tile_loadd(6, d < work.d16 ? values : work.ones, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    if (two) {
      _tile_loadd(7, d + 1 < work.d16 ? values + 512 : work.ones, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, 64);
  _tile_stored(1, out + 256, 64);
  if (two) {
    _tile_stored(2, out + 512, 64);
    _tile_stored(3, out + 768, 64);
  }
}

struct Lanes {
  __m512 product, distance2, a0, a1, a2, a3;
};

// Probabilities of 16 queries and 32 keys from two score tiles. First, Second: whether that half's attraction counts. Sums: whether the
// exact probabilities are added to `sums` ([query][lane]) for a log-sum-exp; the row sums that normalise the output are those of the
// rounded ones.
template <bool First, bool Second, bool Sums>
inline void probabilities16(const Lanes& lanes, const float* low, const float* high, const float* bias, const float* distance,
                            const float* query_distance, float* sums, std::uint16_t* target) {
  const __m512 bias_low = _mm512_load_ps(bias), bias_high = _mm512_load_ps(bias + 16);
  const __m512 distance_low = _mm512_load_ps(distance), distance_high = _mm512_load_ps(distance + 16);
  const auto exponent = [&](__m512 s, __m512 key_bias, __m512 key_distance, int i, bool attracts) {
    const __m512 y = _mm512_fmadd_ps(s, lanes.product, key_bias);
    if (!attracts) return y;
    const __m512 z = _mm512_add_ps(_mm512_fmadd_ps(s, lanes.distance2, key_distance), _mm512_set1_ps(query_distance[i]));
    return _mm512_add_ps(y, Sums ? scaled_exp2(_mm512_min_ps(z, _mm512_setzero_ps()), lanes.a0, lanes.a1, lanes.a2, lanes.a3)
                                 : scaled_exp2(_mm512_min_ps(z, _mm512_setzero_ps()), lanes.a0, lanes.a1, lanes.a2));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 16; ++i) {
    const __m512 y_low = exponent(_mm512_load_ps(low + i * 16), bias_low, distance_low, i, First);
    const __m512 y_high = exponent(_mm512_load_ps(high + i * 16), bias_high, distance_high, i, Second);
    __m512i pair;
    if (Sums) {
      const __m512 p_low = exp2_cubic(y_low), p_high = exp2_cubic(y_high);
      _mm512_store_ps(sums + i * 16, _mm512_add_ps(_mm512_load_ps(sums + i * 16), _mm512_add_ps(p_low, p_high)));
      pair = cut_pairs(to_cut(p_low), to_cut(p_high));
    } else {
      pair = cut_pairs(_mm512_castps_si512(exp2_to_cut(y_low)), _mm512_castps_si512(exp2_to_cut(y_high)));
    }
    _mm512_store_si512(target + i * 32, pair);
  }
}

// The larger one of each lane; a number where the other is NaN, which the plain maximum would lose.
inline __m512 larger_number(__m512 a, __m512 b) { return _mm512_range_ps(a, b, 0b0101); }

// Whether some 2^z of a score tile is worth computing. slack: the most that the queries add to z. A NaN has no vote: whatever its row
// does without the attraction, it stays NaN.
inline bool attracts(const float* scores, const Lanes& lanes, const float* distance, float slack) {
  __m512 a = _mm512_load_ps(scores), b = _mm512_load_ps(scores + 16), c = _mm512_load_ps(scores + 32), d = _mm512_load_ps(scores + 48);
#pragma GCC unroll 3
  for (int i = 4; i < 16; i += 4) {
    a = larger_number(a, _mm512_load_ps(scores + i * 16));
    b = larger_number(b, _mm512_load_ps(scores + i * 16 + 16));
    c = larger_number(c, _mm512_load_ps(scores + i * 16 + 32));
    d = larger_number(d, _mm512_load_ps(scores + i * 16 + 48));
  }
  const __m512 highest = larger_number(larger_number(a, b), larger_number(c, d));
  const __m512 z = _mm512_fmadd_ps(highest, lanes.distance2, _mm512_load_ps(distance));
  return _mm512_cmp_ps_mask(z, _mm512_set1_ps(kNegligible - slack), _CMP_GT_OQ) != 0;
}

// One block of 32 queries.
struct Block {
  alignas(64) float norm2[kRows];
  alignas(64) float start[kRows];           // what the score tiles start from, in units of S
  alignas(64) float query_distance[kRows];  // what the query adds to z
  float slack[2];                           // its largest value in each query tile
  std::int64_t count;
  int record;  // the row whose products are kept in work.row, or -1
};

void set_starts(const Constants& constants, Block& block, const Workspace& work) {
  for (int tile = 0; tile < 2; ++tile) {
    block.slack[tile] = -1e30F;
    for (int i = 16 * tile; i < 16 * tile + 16; ++i) {
      const bool there = i < block.count;
      block.query_distance[i] = there ? -2 * constants.distance * block.start[i] - constants.distance * block.norm2[i] : kMasked;
      if (!there) block.start[i] = kMasked;
      block.slack[tile] = block.query_distance[i] > block.slack[tile] ? block.query_distance[i] : block.slack[tile];
      _mm512_store_ps(work.start + i * 16, _mm512_set1_ps(block.start[i]));
    }
  }
}

// The bound: S - |q|^2 / 2 is the same for all queries of a tile in z, so the
// vote is exact; the tile's largest bound keeps y below the headroom.
void bounded_starts(const Constants& constants, float longest_key, Block& block, const Workspace& work) {
  for (int tile = 0; tile < 2; ++tile) {
    float highest = -3e38F;
    for (int i = 16 * tile; i < 16 * tile + 16 && i < block.count; ++i) {
      const float value = constants.bound(std::sqrt(block.norm2[i]), longest_key) / constants.product - 0.5F * block.norm2[i];
      highest = value > highest ? value : highest;
    }
    for (int i = 16 * tile; i < 16 * tile + 16; ++i) block.start[i] = -0.5F * block.norm2[i] - highest;
  }
  set_starts(constants, block, work);
}

// The exact maximum of each row, without the attraction.
void exact_starts(const Constants& constants, const Workspace& work, Block& block) {
  for (int i = 0; i < kRows; ++i) _mm512_store_ps(work.start + i * 16, _mm512_setzero_ps());
  __m512 highest[kRows];
  for (auto& row : highest) row = _mm512_set1_ps(-3e38F);
  const __m512 product = _mm512_set1_ps(constants.product);
  for (std::int64_t step = 0; step < work.tokens_padded / kStepKeys; ++step) {
    score_step(work, step, work.scores);
    for (int half = 0; half < 2; ++half) {
      const __m512 bias = _mm512_load_ps(work.key_bias + step * kStepKeys + half * 16);
      for (int i = 0; i < kRows; ++i) {
        highest[i] = _mm512_max_ps(highest[i], _mm512_fmadd_ps(_mm512_load_ps(work.scores + half * 512 + i * 16), product, bias));
      }
    }
  }
  const float aim = kHeadroom - constants.attraction;
  for (int i = 0; i < kRows; ++i) block.start[i] = -(_mm512_reduce_max_ps(highest[i]) - aim) / constants.product;
  set_starts(constants, block, work);
}

template <bool Attraction, bool Sums>
void attend(const Constants& constants, const Workspace& work, const Block& block, Counters& counters) {
  const std::int64_t steps = work.tokens_padded / kStepKeys, pairs = work.d16 / 2 + 1;
  Lanes lanes;
  lanes.product = _mm512_set1_ps(constants.product);
  lanes.distance2 = _mm512_set1_ps(2 * constants.distance);
  const float* polynomial = Sums ? kCubic : kQuadratic;
  lanes.a0 = _mm512_set1_ps(polynomial[0] * constants.attraction);
  lanes.a1 = _mm512_set1_ps(polynomial[1] * constants.attraction);
  lanes.a2 = _mm512_set1_ps(polynomial[2] * constants.attraction);
  lanes.a3 = _mm512_set1_ps(polynomial[3] * constants.attraction);
  for (std::int64_t i = 0; Sums && i < kRows * 16; i += 16) _mm512_store_ps(work.sums + i, _mm512_setzero_ps());
  for (std::int64_t i = 0; i < 2 * (work.d16 + 1) * 256; i += 16) _mm512_store_ps(work.out + i, _mm512_setzero_ps());

  score_step(work, 0, work.scores);
  std::int64_t previous = 0, pending = 0;  // steps [previous, previous + pending): probabilities that did not meet the values yet
  for (std::int64_t first = 0; first < steps; first += kBlockSteps) {
    const std::int64_t parity = first / kBlockSteps % 2;
    std::uint16_t* probabilities = work.probabilities + parity * kBlockSteps * 1024;
    const std::uint16_t* before = work.probabilities + (1 - parity) * kBlockSteps * 1024;
    const std::int64_t block_steps = steps - first < kBlockSteps ? steps - first : kBlockSteps;
    std::int64_t done = 0;
    for (std::int64_t s = 0; s < block_steps; ++s) {
      const std::int64_t step = first + s;
      float* scores = work.scores + step % 2 * 1024;
      if (step + 1 < steps) score_step(work, step + 1, work.scores + (step + 1) % 2 * 1024);
      if (pending != 0) {
        const std::int64_t until = (s + 1) * pairs / block_steps;
        for (; done < until; ++done) output_tiles(work, before, previous, pending, 2 * done);
      }
      if (block.record >= 0) {
        const __m512 start = _mm512_set1_ps(block.start[block.record]);
        for (int half = 0; half < 2; ++half) {
          const __m512 line = _mm512_load_ps(scores + half * 512 + block.record * 16);
          _mm512_store_ps(work.row + step * kStepKeys + half * 16, _mm512_sub_ps(line, start));
        }
      }
      const float* bias = work.key_bias + step * kStepKeys;
      const float* distance = work.key_distance + step * kStepKeys;
      for (int tile = 0; tile < 2; ++tile) {
        const float *low = scores + tile * 256, *high = low + 512;
        std::uint16_t* target = probabilities + s * 1024 + tile * 512;
        const float* query_distance = block.query_distance + tile * 16;
        const bool a = Attraction && attracts(low, lanes, distance, block.slack[tile]);
        const bool b = Attraction && attracts(high, lanes, distance + 16, block.slack[tile]);
        const auto fill = [&]<bool First, bool Second>() {
          probabilities16<First, Second, Sums>(lanes, low, high, bias, distance, query_distance, work.sums + tile * 256, target);
        };
        if (!a && !b) {
          fill.template operator()<false, false>();
        } else if (a && b) {
          fill.template operator()<true, true>();
        } else if (a) {
          fill.template operator()<true, false>();
        } else {
          fill.template operator()<false, true>();
        }
        counters.skipped_blocks += Attraction ? !a + !b : 0;
      }
    }
    previous = first;
    pending = block_steps;
  }
  const std::uint16_t* last = work.probabilities + previous / kBlockSteps % 2 * kBlockSteps * 1024;
  for (std::int64_t d = 0; d < pairs; ++d) output_tiles(work, last, previous, pending, 2 * d);
  counters.blocks += Attraction ? 4 * steps : 0;
}

// log2 of positive normal numbers, absolute error below 3e-7: the mantissa in
// [0.75, 1.5) by the series of the inverse hyperbolic tangent.
inline __m512 log2(__m512 x) {
  const __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  const __m512 exponent = _mm512_getexp_ps(_mm512_div_ps(x, m));
  const __m512 one = _mm512_set1_ps(1.0F);
  const __m512 t = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one)), t2 = _mm512_mul_ps(t, t);
  __m512 p = _mm512_set1_ps(2 * kLog2E / 9);
  p = _mm512_fmadd_ps(p, t2, _mm512_set1_ps(2 * kLog2E / 7));
  p = _mm512_fmadd_ps(p, t2, _mm512_set1_ps(2 * kLog2E / 5));
  p = _mm512_fmadd_ps(p, t2, _mm512_set1_ps(2 * kLog2E / 3));
  p = _mm512_fmadd_ps(p, t2, _mm512_set1_ps(2 * kLog2E));
  return _mm512_fmadd_ps(p, t, exponent);
}

inline const float* row_sum(const Workspace& work, std::int64_t i) { return work.out + work.d16 * 512 + i * 16; }

void write_rows(const Forward& call, const Constants& constants, const Block& block, const Workspace& work, std::int64_t index,
                std::int64_t first) {
  const Problem& problem = call.problem;
  const std::int64_t batch = index / problem.heads, head = index % problem.heads;
  auto* out = static_cast<std::uint16_t*>(call.out) + batch * call.out_strides.batch + head * call.out_strides.head;
  alignas(64) float sums[kRows];
  for (std::int64_t i = 0; i < block.count; ++i) {
    const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0F), _mm512_load_ps(row_sum(work, i)));
    if (call.lse != nullptr) sums[i] = _mm512_reduce_add_ps(_mm512_load_ps(work.sums + i * 16));
    std::uint16_t* target = out + (first + i) * call.out_strides.token;
    for (std::int64_t d = 0; d < work.d16; ++d) {
      const __m256bh half = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_load_ps(work.out + d * 512 + i * 16), inverse));
      _mm256_mask_storeu_epi16(target + d * 16, first_lanes(problem.head_dim - d * 16), reinterpret_cast<__m256i>(half));
    }
  }
  if (call.lse == nullptr) return;
  for (std::int64_t i = 0; i < block.count; i += 16) {
    const __mmask16 there = first_lanes(block.count - i);
    __m512 lse = log2(_mm512_maskz_loadu_ps(there, sums + i));
    lse = _mm512_sub_ps(lse, _mm512_set1_ps(kHeadroom - constants.attraction));
    lse = _mm512_fnmadd_ps(_mm512_load_ps(block.start + i), _mm512_set1_ps(constants.product), lse);
    if (!constants.plain) lse = _mm512_fmadd_ps(_mm512_load_ps(block.norm2 + i), _mm512_set1_ps(constants.key_bias), lse);
    _mm512_mask_storeu_ps(call.lse + index * problem.tokens + first + i, there, _mm512_mul_ps(lse, _mm512_set1_ps(kLn2)));
  }
}

void load_queries(const Forward& call, std::int64_t index, std::int64_t first, const Workspace& work, Block& block) {
  const Problem& problem = call.problem;
  const auto* queries = static_cast<const std::uint16_t*>(call.query) + index / problem.heads * call.query_strides.batch +
                        index % problem.heads * call.query_strides.head + first * call.query_strides.token;
  for (std::int64_t tile = 0; tile < 2; ++tile) {
    for (std::int64_t d = 0; d < work.d32; ++d) {
      pack_rows(queries + tile * 16 * call.query_strides.token + d * 32, call.query_strides.token, block.count - tile * 16,
                problem.head_dim - d * 32, work.queries + (tile * work.d32 + d) * 512);
    }
    for (std::int64_t i = 0; i < 16; ++i) {
      __m512 sum = _mm512_setzero_ps();
      for (std::int64_t d = 0; d < work.d32; ++d) {
        const __m512bh pair = reinterpret_cast<__m512bh>(_mm512_load_si512(work.queries + (tile * work.d32 + d) * 512 + i * 32));
        sum = _mm512_dpbf16_ps(sum, pair, pair);
      }
      block.norm2[tile * 16 + i] = _mm512_reduce_add_ps(sum);
    }
  }
}

template <bool Attraction, bool Sums>
Counters run_items(const Forward& call, float* probabilities, std::int64_t begin, std::int64_t end, char* workspace) {
  const Problem& problem = call.problem;
  const Constants constants(problem);
  Workspace work;
  work.carve(problem, workspace);
  for (int i = 0; i < 512; ++i) work.ones[i] = 0x3f80;
  const TileScope tiles;
  const std::int64_t items_per_head = (problem.tokens + kRows - 1) / kRows;
  std::int64_t prepared = -1;
  float longest_key = 0;
  Counters counters{};
  Block block;
  for (std::int64_t item = begin; item < end; ++item) {
    const std::int64_t index = item / items_per_head, first = item % items_per_head * kRows;
    if (index != prepared) {
      longest_key = prepare_head(call, constants, index / problem.heads, index % problem.heads, work);
      prepared = index;
    }
    const std::int64_t left = problem.tokens - first;
    block.count = left < kRows ? left : kRows;
    const bool has_row = probabilities != nullptr && call.template_token >= first && call.template_token < first + block.count;
    block.record = has_row ? static_cast<int>(call.template_token - first) : -1;
    load_queries(call, index, first, work, block);
    bounded_starts(constants, longest_key, block, work);
    attend<Attraction, Sums>(constants, work, block, counters);
    bool sound = true;
    for (std::int64_t i = 0; i < block.count; ++i) sound = sound && *row_sum(work, i) >= kLowestSum && *row_sum(work, i) <= kHighestSum;
    if (!sound) {
      exact_starts(constants, work, block);
      attend<Attraction, Sums>(constants, work, block, counters);
      counters.redone_rows += block.count;
    }
    write_rows(call, constants, block, work, index, first);
    if (has_row) {
      row_probabilities(constants, work.row, work.key_norms, block.norm2[block.record], problem.tokens, call.num_template,
                        probabilities + index * (problem.tokens - call.num_template));
    }
  }
  return counters;
}

std::size_t workspace_bytes(const Problem& problem) {
  Workspace work;
  return static_cast<std::size_t>(work.carve(problem, nullptr));
}

Counters run(const Forward& call, float* probabilities, std::int64_t begin, std::int64_t end, char* workspace) {
  const bool attraction = call.problem.alpha > 0, sums = call.lse != nullptr;
  const auto chosen =
      attraction ? (sums ? run_items<true, true> : run_items<true, false>) : (sums ? run_items<false, true> : run_items<false, false>);
  return chosen(call, probabilities, begin, end, workspace);
}

}  // namespace

const ForwardKernel forward_amx{kRows, workspace_bytes, run};

}  // namespace esat::attention

// The backward kernel for AMX-bf16; the formulas are in backward_lanes.h. Blocks of 32 queries against steps of 32 keys, keys in the lanes.
//
// P and dS are needed as operands of products over keys (dq) and over queries (dk, dv). Instead of transposing them, dk and dv are made
// transposed: dv^T = dout^T P and dk^T = q^T dS take P and dS as B operands, whose pairs of queries t and t + 16 are one blend.

#include "attention/amx.h"
#include "attention/exp2_bf16.h"
#include "common/simd_avx512.h"
// simd_avx512.h comes first: scores.h is written in its terms.
#include "attention/kernels.h"
#include "attention/scores.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kRows = 32;
constexpr std::int64_t kTile = 512;       // bf16 of a tile
constexpr std::int64_t kFloatTile = 256;  // floats of a tile

// Arrays of one thread, in tiles of 1 KB.
struct Workspace {
  std::uint16_t *queries, *douts;                // A operands [query tile][32 of D]
  std::uint16_t *queries_turned, *douts_turned;  // A operands [16 of D], 16 x 32 queries
  std::uint16_t *keys, *values;                  // B operands [key tile][32 of D]: S and dP
  std::uint16_t* key_pairs;                      // B operands [step][16 of D]: dq
  std::uint16_t *probability, *dscore;           // B operands [key half], 32 queries x 16 keys
  std::uint16_t* dscore_rows;                    // A operands [step][query tile], 16 queries x 32 keys
  float *scores, *dprobability;                  // [key half][query tile]
  float *start, *dot_start;                      // what S and dP start from, [query tile]
  float *dkey, *dvalue;                          // transposed, [key tile][16 of D]
  float* dquery;                                 // [16 of D][query tile]
  float *key_bias, *key_distance, *key_force;
  std::int64_t tokens_padded, steps, d32, d16;

  std::int64_t carve(const Problem& problem, char* memory) {
    tokens_padded = round_up(problem.tokens, kRows);
    steps = tokens_padded / kRows;
    d32 = round_up(problem.head_dim, 32) / 32;
    d16 = round_up(problem.head_dim, 16) / 16;
    Carver from{memory};
    queries = from.tiles(2 * d32);
    douts = from.tiles(2 * d32);
    queries_turned = from.tiles(d16);
    douts_turned = from.tiles(d16);
    keys = from.tiles(2 * steps * d32);
    values = from.tiles(2 * steps * d32);
    key_pairs = from.tiles(steps * d16);
    probability = from.tiles(2);
    dscore = from.tiles(2);
    dscore_rows = from.tiles(2 * steps > d32 ? 2 * steps : d32);
    scores = from.floats(4 * kFloatTile);
    dprobability = from.floats(4 * kFloatTile);
    start = from.floats(2 * kFloatTile);
    dot_start = from.floats(2 * kFloatTile);
    dkey = from.floats(2 * steps * d16 * kFloatTile);
    dvalue = from.floats(2 * steps * d16 * kFloatTile);
    dquery = from.floats(2 * d16 * kFloatTile);
    key_bias = from.floats(tokens_padded);
    key_distance = from.floats(tokens_padded);
    key_force = from.floats(tokens_padded);
    return from.used;
  }
};

struct Block {
  alignas(64) float query_distance[kRows];  // what the query adds to z
  alignas(64) float force[kRows][16];       // sum_j F_ij, one sum a lane
  std::int64_t count;
};

const std::uint16_t* head_start(const void* start, const Strides& strides, const Problem& problem, std::int64_t index) {
  return static_cast<const std::uint16_t*>(start) + index / problem.heads * strides.batch + index % problem.heads * strides.head;
}

void prepare_head(const Backward& call, const Constants& constants, std::int64_t index, const Workspace& work) {
  const Problem& problem = call.problem;
  const std::uint16_t* keys = head_start(call.key, call.key_strides, problem, index);
  const std::uint16_t* values = head_start(call.value, call.value_strides, problem, index);
  const std::int64_t key_stride = call.key_strides.token, value_stride = call.value_strides.token;
  for (std::int64_t j = 0; j < work.tokens_padded; j += 16) {
    const std::int64_t rows = problem.tokens - j;
    __m512 norm = _mm512_setzero_ps();
    for (std::int64_t d = 0; d < work.d32; ++d) {
      const std::int64_t tile = (j / 16 * work.d32 + d) * kTile, columns = problem.head_dim - d * 32;
      norm = pack_transposed(keys + j * key_stride + d * 32, key_stride, rows, columns, work.keys + tile, norm);
      pack_transposed(values + j * value_stride + d * 32, value_stride, rows, columns, work.values + tile, norm);
    }
    const __mmask16 there = first_lanes(rows);
    const __m512 masked = _mm512_set1_ps(kMasked);
    const __m512 counted = constants.plain ? _mm512_setzero_ps() : norm;
    _mm512_store_ps(work.key_bias + j, _mm512_mask_mul_ps(masked, there, counted, _mm512_set1_ps(constants.key_bias)));
    _mm512_store_ps(work.key_distance + j, _mm512_mask_mul_ps(masked, there, norm, _mm512_set1_ps(-constants.distance)));
    _mm512_store_ps(work.key_force + j, _mm512_setzero_ps());
  }
  for (std::int64_t step = 0; step < work.steps; ++step) {
    for (std::int64_t d = 0; d < work.d16; ++d) {
      pack_pairs(keys + step * 32 * key_stride + d * 16, key_stride, problem.tokens - step * 32, problem.head_dim - d * 16,
                 work.key_pairs + (step * work.d16 + d) * kTile);
    }
  }
  const std::int64_t size = 2 * work.steps * work.d16 * kFloatTile;
  for (std::int64_t i = 0; i < size; i += 16) {
    _mm512_store_ps(work.dkey + i, _mm512_setzero_ps());
    _mm512_store_ps(work.dvalue + i, _mm512_setzero_ps());
  }
}

// Row sums of a * b over D for 16 rows of packed tiles.
inline float row_dot(const std::uint16_t* a, const std::uint16_t* b, std::int64_t d32, std::int64_t row) {
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t d = 0; d < d32; ++d) {
    sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_load_si512(a + d * kTile + row * 32)),
                           reinterpret_cast<__m512bh>(_mm512_load_si512(b + d * kTile + row * 32)));
  }
  return _mm512_reduce_add_ps(sum);
}

// 32 rows of D as A operands of a product over the rows: tiles of 16 of D by 32 rows, the rows in the order of pack_pairs.
void pack_turned(const std::uint16_t* source, std::int64_t stride, std::int64_t rows, const Problem& problem, std::uint16_t* tiles) {
  for (std::int64_t d = 0; d < problem.head_dim; d += 16, tiles += kTile) {
    pack_pairs(source + d, stride, rows, problem.head_dim - d, tiles);
    __m512i line[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) line[i] = _mm512_load_si512(tiles + i * 32);
    transpose(line);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(tiles + i * 32, line[i]);
  }
}

// A tile's rows behind the last query, of the scores' operand alone, repeat it: a query of zeros would make NaN of a key's infinity, which
// meets their douts of zeros.
void repeat_last(std::int64_t tile, std::int64_t count, std::int64_t d32, std::uint16_t* tiles) {
  const auto row = [&](std::int64_t i, std::int64_t d) { return tiles + (i / 16 * d32 + d) * kTile + i % 16 * 32; };
  for (std::int64_t i = count > 16 * tile ? count : 16 * tile; i < 16 * tile + 16; ++i) {
    for (std::int64_t d = 0; d < d32; ++d) _mm512_store_si512(row(i, d), _mm512_load_si512(row(count - 1, d)));
  }
}

void load_block(const Backward& call, const Constants& constants, std::int64_t index, std::int64_t first, const Workspace& work,
                Block& block) {
  const Problem& problem = call.problem;
  const std::uint16_t* queries = head_start(call.query, call.query_strides, problem, index) + first * call.query_strides.token;
  const std::uint16_t* douts = head_start(call.dout, call.dout_strides, problem, index) + first * call.dout_strides.token;
  const std::uint16_t* outs = head_start(call.out, call.out_strides, problem, index) + first * call.out_strides.token;
  pack_turned(queries, call.query_strides.token, block.count, problem, work.queries_turned);
  pack_turned(douts, call.dout_strides.token, block.count, problem, work.douts_turned);
  for (std::int64_t tile = 0; tile < 2; ++tile) {
    std::uint16_t *query_tiles = work.queries + tile * work.d32 * kTile, *dout_tiles = work.douts + tile * work.d32 * kTile;
    std::uint16_t* out_tiles = work.dscore_rows;  // free until the first step
    const std::int64_t rows = block.count - tile * 16;
    for (std::int64_t d = 0; d < work.d32; ++d) {
      const std::int64_t columns = problem.head_dim - d * 32;
      const auto pack = [&](const std::uint16_t* source, const Strides& strides, std::uint16_t* target) {
        pack_rows(source + tile * 16 * strides.token + d * 32, strides.token, rows, columns, target + d * kTile);
      };
      pack(queries, call.query_strides, query_tiles);
      pack(douts, call.dout_strides, dout_tiles);
      pack(outs, call.out_strides, out_tiles);
    }
    repeat_last(tile, block.count, work.d32, work.queries);
    for (std::int64_t i = 0; i < 16; ++i) {
      const std::int64_t row = tile * 16 + i, query = row < block.count ? row : block.count - 1;
      const float norm2 = row_dot(query_tiles, query_tiles, work.d32, i);
      const float lse = call.lse[index * problem.tokens + first + query];
      const float start = (constants.bias(norm2) - lse * kLog2E) / constants.product;
      block.query_distance[row] = -2 * constants.distance * start - constants.distance * norm2;
      const float dot = row < block.count ? row_dot(dout_tiles, out_tiles, work.d32, i) : 0;
      _mm512_store_ps(work.start + row * 16, _mm512_set1_ps(start));
      _mm512_store_ps(work.dot_start + row * 16, _mm512_set1_ps(-dot));
      _mm512_store_ps(block.force[row], _mm512_setzero_ps());
    }
  }
}

// 32 x 32 of start + A B: A [query tile][32 of D], B [key half][32 of D].
inline void product32(const std::uint16_t* a, const std::uint16_t* b, std::int64_t d32, const float* start, float* target) {
  _tile_loadd(0, start, 64);
  _tile_loadd(1, start + kFloatTile, 64);
  _tile_loadd(2, start, 64);
  _tile_loadd(3, start + kFloatTile, 64);
  for (std::int64_t d = 0; d < d32; ++d) {
    _tile_loadd(4, a + d * kTile, 64);
    _tile_loadd(6, b + d * kTile, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + (d32 + d) * kTile, 64);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(7, b + (d32 + d) * kTile, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, target, 64);
  _tile_stored(1, target + kFloatTile, 64);
  _tile_stored(2, target + 2 * kFloatTile, 64);
  _tile_stored(3, target + 3 * kFloatTile, 64);
}

// target[key half][16 of D] += A[16 of D] B[key half].
inline void add_outer(const std::uint16_t* a, const std::uint16_t* b, std::int64_t d16, float* target) {
  _tile_loadd(6, b, 64);
  _tile_loadd(7, b + kTile, 64);
  for (std::int64_t d = 0; d < d16; ++d) {
    float *low = target + d * kFloatTile, *high = target + (d16 + d) * kFloatTile;
    _tile_loadd(4, a + d * kTile, 64);
    _tile_loadd(0, low, 64);
    _tile_loadd(1, high, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_stored(0, low, 64);
    _tile_stored(1, high, 64);
  }
}

// dq of the block: [16 of D][query tile] = sum over steps of dS K.
inline void query_gradient(const Workspace& work) {
  for (std::int64_t d = 0; d < work.d16; ++d) {
    _tile_zero(0);
    _tile_zero(1);
    for (std::int64_t step = 0; step < work.steps; ++step) {
      _tile_loadd(6, work.key_pairs + (step * work.d16 + d) * kTile, 64);
      _tile_loadd(4, work.dscore_rows + 2 * step * kTile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, work.dscore_rows + (2 * step + 1) * kTile, 64);
      _tile_dpbf16ps(1, 5, 6);
    }
    _tile_stored(0, work.dquery + 2 * d * kFloatTile, 64);
    _tile_stored(1, work.dquery + (2 * d + 1) * kFloatTile, 64);
  }
}

struct Lanes {
  __m512 product, distance2, attraction, alpha, beta, scale, twice_delta;
};

struct Element {
  __m512i probability, dscore;
  __m512 force;
};

template <bool Attraction>
inline Element differentiate(const Lanes& lanes, __m512 s, __m512 dp, __m512 bias, __m512 distance, float query_distance) {
  __m512 y = _mm512_fmadd_ps(s, lanes.product, bias), weight = lanes.beta;
  if (Attraction) {
    const __m512 z = _mm512_add_ps(_mm512_fmadd_ps(s, lanes.distance2, distance), _mm512_set1_ps(query_distance));
    const __m512 e = exp2_cubic(_mm512_min_ps(z, _mm512_setzero_ps()));
    y = _mm512_fmadd_ps(e, lanes.attraction, y);
    weight = _mm512_fmadd_ps(e, lanes.alpha, weight);
  }
  const __m512 p = exp2_cubic(y), g = _mm512_mul_ps(p, dp), force = _mm512_mul_ps(g, weight);
  const __m512 ds = _mm512_fmadd_ps(force, lanes.twice_delta, _mm512_mul_ps(g, lanes.scale));
  return {to_cut(p), to_cut(ds), force};
}

template <bool Attraction>
inline void differentiate_step(const Lanes& lanes, const Workspace& work, std::int64_t step, Block& block) {
  const float *bias = work.key_bias + step * 32, *distance = work.key_distance + step * 32;
  const __m512 bias0 = _mm512_load_ps(bias), bias1 = _mm512_load_ps(bias + 16);
  const __m512 distance0 = _mm512_load_ps(distance), distance1 = _mm512_load_ps(distance + 16);
  __m512 force0 = _mm512_load_ps(work.key_force + step * 32), force1 = _mm512_load_ps(work.key_force + step * 32 + 16);
  std::uint16_t *rows0 = work.dscore_rows + 2 * step * kTile, *rows1 = rows0 + kTile;
  for (std::int64_t t = 0; t < 16; ++t) {
    const auto element = [&](int half, int tile) {
      const std::int64_t place = (2 * half + tile) * kFloatTile + t * 16;
      return differentiate<Attraction>(lanes, _mm512_load_ps(work.scores + place), _mm512_load_ps(work.dprobability + place),
                                       half == 0 ? bias0 : bias1, half == 0 ? distance0 : distance1, block.query_distance[tile * 16 + t]);
    };
    const Element a0 = element(0, 0), a1 = element(1, 0);
    _mm512_store_si512(rows0 + t * 32, cut_pairs(a0.dscore, a1.dscore));
    _mm512_store_ps(block.force[t], _mm512_add_ps(_mm512_load_ps(block.force[t]), _mm512_add_ps(a0.force, a1.force)));
    const Element b0 = element(0, 1), b1 = element(1, 1);
    _mm512_store_si512(rows1 + t * 32, cut_pairs(b0.dscore, b1.dscore));
    _mm512_store_ps(block.force[16 + t], _mm512_add_ps(_mm512_load_ps(block.force[16 + t]), _mm512_add_ps(b0.force, b1.force)));
    _mm512_store_si512(work.probability + t * 32, cut_pairs(a0.probability, b0.probability));
    _mm512_store_si512(work.probability + kTile + t * 32, cut_pairs(a1.probability, b1.probability));
    _mm512_store_si512(work.dscore + t * 32, cut_pairs(a0.dscore, b0.dscore));
    _mm512_store_si512(work.dscore + kTile + t * 32, cut_pairs(a1.dscore, b1.dscore));
    force0 = _mm512_add_ps(force0, _mm512_add_ps(a0.force, b0.force));
    force1 = _mm512_add_ps(force1, _mm512_add_ps(a1.force, b1.force));
  }
  _mm512_store_ps(work.key_force + step * 32, force0);
  _mm512_store_ps(work.key_force + step * 32 + 16, force1);
}

void write_query_gradient(const Backward& call, std::int64_t index, std::int64_t first, const Workspace& work, const Block& block) {
  const Problem& problem = call.problem;
  const std::uint16_t* queries = head_start(call.query, call.query_strides, problem, index);
  auto* target = const_cast<std::uint16_t*>(head_start(call.dquery, call.grad_strides, problem, index));
  for (std::int64_t i = 0; i < block.count; ++i) {
    const __m512 pull = _mm512_set1_ps(2 * problem.delta * _mm512_reduce_add_ps(_mm512_load_ps(block.force[i])));
    for (std::int64_t d = 0; d < work.d16; ++d) {
      const __mmask16 there = first_lanes(problem.head_dim - d * 16);
      const __m256i half = _mm256_maskz_loadu_epi16(there, queries + (first + i) * call.query_strides.token + d * 16);
      const __m512 query = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
      const __m512 sum = _mm512_load_ps(work.dquery + (2 * d + i / 16) * kFloatTile + i % 16 * 16);
      const __m256bh value = _mm512_cvtneps_pbh(_mm512_fnmadd_ps(pull, query, sum));
      _mm256_mask_storeu_epi16(target + (first + i) * call.grad_strides.token + d * 16, there, reinterpret_cast<__m256i>(value));
    }
  }
}

// Turns one 16 x 16 tile of a transposed gradient back and writes it: source[d][j] -> target[j][d], minus pull_j key_j.
void write_turned(const float* source, const std::uint16_t* keys, std::int64_t key_stride, const float* pulls, std::int64_t rows,
                  std::int64_t columns, std::uint16_t* target, std::int64_t stride) {
  __m512i line[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) line[i] = _mm512_load_si512(source + i * 16);
  transpose(line);
  alignas(64) float turned[16][16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_si512(turned[i], line[i]);
  const __mmask16 there = first_lanes(columns);
  for (std::int64_t j = 0; j < 16 && j < rows; ++j) {
    __m512 value = _mm512_load_ps(turned[j]);
    if (keys != nullptr) {
      const __m256i half = _mm256_maskz_loadu_epi16(there, keys + j * key_stride);
      const __m512 key = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
      value = _mm512_fnmadd_ps(_mm512_set1_ps(pulls[j]), key, value);
    }
    _mm256_mask_storeu_epi16(target + j * stride, there, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
  }
}

void write_key_gradients(const Backward& call, std::int64_t index, const Workspace& work) {
  const Problem& problem = call.problem;
  const std::uint16_t* keys = head_start(call.key, call.key_strides, problem, index);
  auto* dkeys = const_cast<std::uint16_t*>(head_start(call.dkey, call.grad_strides, problem, index));
  auto* dvalues = const_cast<std::uint16_t*>(head_start(call.dvalue, call.grad_strides, problem, index));
  const std::int64_t stride = call.grad_strides.token;
  for (std::int64_t j = 0; j < problem.tokens; j += 16) {
    alignas(64) float pulls[16];
    _mm512_store_ps(pulls, _mm512_mul_ps(_mm512_load_ps(work.key_force + j), _mm512_set1_ps(2 * problem.delta)));
    for (std::int64_t d = 0; d < work.d16; ++d) {
      const std::int64_t tile = (j / 16 * work.d16 + d) * kFloatTile, rows = problem.tokens - j, columns = problem.head_dim - d * 16;
      write_turned(work.dkey + tile, keys + j * call.key_strides.token + d * 16, call.key_strides.token, pulls, rows, columns,
                   dkeys + j * stride + d * 16, stride);
      write_turned(work.dvalue + tile, nullptr, 0, pulls, rows, columns, dvalues + j * stride + d * 16, stride);
    }
  }
}

template <bool Attraction>
void backward_head(const Backward& call, const Constants& constants, std::int64_t index, const Workspace& work) {
  const Problem& problem = call.problem;
  Lanes lanes;
  lanes.product = _mm512_set1_ps(constants.product);
  lanes.distance2 = _mm512_set1_ps(2 * constants.distance);
  lanes.attraction = _mm512_set1_ps(constants.attraction);
  lanes.alpha = _mm512_set1_ps(problem.alpha);
  lanes.beta = _mm512_set1_ps(problem.beta);
  lanes.scale = _mm512_set1_ps(problem.scale);
  lanes.twice_delta = _mm512_set1_ps(2 * problem.delta);
  prepare_head(call, constants, index, work);
  Block block;
  for (std::int64_t first = 0; first < problem.tokens; first += kRows) {
    block.count = problem.tokens - first < kRows ? problem.tokens - first : kRows;
    load_block(call, constants, index, first, work, block);
    for (std::int64_t step = 0; step < work.steps; ++step) {
      product32(work.queries, work.keys + 2 * step * work.d32 * kTile, work.d32, work.start, work.scores);
      product32(work.douts, work.values + 2 * step * work.d32 * kTile, work.d32, work.dot_start, work.dprobability);
      differentiate_step<Attraction>(lanes, work, step, block);
      const std::int64_t tiles = 2 * step * work.d16 * kFloatTile;
      add_outer(work.douts_turned, work.probability, work.d16, work.dvalue + tiles);
      add_outer(work.queries_turned, work.dscore, work.d16, work.dkey + tiles);
    }
    query_gradient(work);
    write_query_gradient(call, index, first, work, block);
  }
  write_key_gradients(call, index, work);
}

std::size_t workspace_bytes(const Problem& problem) {
  Workspace work;
  return static_cast<std::size_t>(work.carve(problem, nullptr));
}

void run(const Backward& call, std::int64_t begin, std::int64_t end, char* workspace) {
  const Constants constants(call.problem);
  Workspace work;
  work.carve(call.problem, workspace);
  const TileScope tiles;
  for (std::int64_t index = begin; index < end; ++index) {
    if (call.problem.alpha > 0) {
      backward_head<true>(call, constants, index, work);
    } else {
      backward_head<false>(call, constants, index, work);
    }
  }
}

}  // namespace

const BackwardKernel backward_amx{workspace_bytes, run};

}  // namespace esat::attention

// The backward kernel for vector units, in float32 inside. With P = exp(A - lse), e = exp(-r), dP = dout v^T and D_i = dout_i . out_i:
//   G = P (dP - D),  F = G (beta + alpha e),  dS = scale G + 2 delta F,
//   dq_i = sum_j dS_ij k_j - 2 delta q_i sum_j F_ij,  dk_j = sum_i dS_ij q_i - 2 delta k_j sum_i F_ij,  dv_j = sum_i P_ij dout_i.
// Queries lie in the lanes as in the forward kernel; one thread owns a head, so that dk and dv need no locks. Include a simd_*.h first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "attention/columns.h"
#include "attention/convert.h"
#include "attention/exponents.h"
#include "attention/head.h"
#include "attention/kernels.h"
#include "attention/product.h"
#include "attention/scores.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kLanes = Simd::kVectors * Simd::kWidth;
constexpr std::int64_t kBackwardKeys = 32;

struct BackwardWorkspace {
  float *keys, *values, *key_norms, *key_bias, *key_distance;
  float *query_columns, *dout_columns, *query_rows, *dout_rows;  // [D][lanes] and [lanes][D padded]
  float *probability, *dscore, *attraction;                      // [keys][lanes]
  float *dquery, *dkey, *dvalue, *force;                         // [D][lanes], [N][D padded] twice, [N][one vector]
  std::int64_t dim_padded;

  // Carves the arrays out of `memory` (may be null) and returns the floats needed.
  std::int64_t carve(const Problem& problem, float* memory) {
    dim_padded = round_up(problem.head_dim, Simd::kWidth);
    const std::int64_t copy = round_up(problem.tokens, kRowsStep) * problem.head_dim;
    std::int64_t used = 0;
    const auto take = [&](std::int64_t count) {
      float* start = memory == nullptr ? nullptr : memory + used;
      used += round_up(count, 16);
      return start;
    };
    keys = take(copy);
    values = take(copy);
    key_norms = take(round_up(problem.tokens, 64));
    key_bias = take(problem.tokens);
    key_distance = take(problem.tokens);
    query_columns = take(problem.head_dim * kLanes);
    dout_columns = take(problem.head_dim * kLanes);
    query_rows = take(kLanes * dim_padded);
    dout_rows = take(kLanes * dim_padded);
    probability = take(kBackwardKeys * kLanes);
    dscore = take(kBackwardKeys * kLanes);
    attraction = take(kTwoLoops ? kBackwardKeys * kLanes : 0);
    dquery = take(problem.head_dim * kLanes);
    dkey = take(round_up(problem.tokens, kRowsStep) * dim_padded);
    dvalue = take(round_up(problem.tokens, kRowsStep) * dim_padded);
    force = take(problem.tokens * Simd::kWidth);
    return used;
  }
};

// C[rows][D] += A[rows][lanes] B[lanes][D], D in as many vectors at a time as the register tile takes.
inline void add_outer(const float* a, Rows b, std::int64_t rows, std::int64_t dim_padded, Rows c) {
  std::int64_t d = 0;
  for (; d + kLanes <= dim_padded; d += kLanes) {
    product<Simd::kVectors, true>(a, kLanes, 1, Rows{b.start + d, b.stride}, rows, kLanes, Rows{c.start + d, c.stride});
  }
  for (; d + 2 * Simd::kWidth <= dim_padded; d += 2 * Simd::kWidth) {
    product<2, true>(a, kLanes, 1, Rows{b.start + d, b.stride}, rows, kLanes, Rows{c.start + d, c.stride});
  }
  for (; d < dim_padded; d += Simd::kWidth) {
    product<1, true>(a, kLanes, 1, Rows{b.start + d, b.stride}, rows, kLanes, Rows{c.start + d, c.stride});
  }
}

struct QueryBlock {
  alignas(64) float norm2[kLanes];
  alignas(64) float distance[kLanes];  // log2 a - d |q|^2, with two loops
  alignas(64) float shift[kLanes];     // the row's constant in log2 P: an integer
  alignas(64) float fraction[kLanes];  // and the rest
  alignas(64) float row_dot[kLanes];   // D_i
  alignas(64) float force[kLanes];     // sum_j F_ij
};

[[gnu::noinline]] inline void load_block(const Backward& call, const Constants& constants, std::int64_t batch, std::int64_t head,
                                         std::int64_t first, std::int64_t count, const BackwardWorkspace& work, QueryBlock& block) {
  const Problem& problem = call.problem;
  const std::int64_t dim = problem.head_dim;
  const float distance = constants.attraction > 0 ? std::log2(constants.attraction) : 0;
  const auto start = [&](const Strides& strides, std::int64_t i) {
    return batch * strides.batch + head * strides.head + (first + i) * strides.token;
  };
  float out[128];
  for (std::int64_t i = 0; i < kLanes; ++i) {
    float *query = work.query_rows + i * work.dim_padded, *dout = work.dout_rows + i * work.dim_padded;
    std::fill(query, query + work.dim_padded, 0.0F);
    std::fill(dout, dout + work.dim_padded, 0.0F);
    block.row_dot[i] = block.force[i] = 0;
    // Spare lanes repeat the last query, without a dout: a query of zeros would make NaN of a key's infinity, which meets their zeros.
    const std::int64_t row = i < count ? i : count - 1;
    read_floats(call.query, problem.dtype, start(call.query_strides, row), dim, query);
    block.norm2[i] = dot(query, query, dim);
    const float lse = call.lse[(batch * problem.heads + head) * problem.tokens + first + row];
    const RowConstant constant = row_constant(constants, lse, block.norm2[i]);
    block.shift[i] = constant.shift;
    block.fraction[i] = constant.fraction;
    block.distance[i] = distance - constants.distance * block.norm2[i];
    if (i < count) {
      read_floats(call.dout, problem.dtype, start(call.dout_strides, i), dim, dout);
      read_floats(call.out, problem.dtype, start(call.out_strides, i), dim, out);
      block.row_dot[i] = dot(dout, out, dim);
    }
  }
  for (std::int64_t lane = 0; lane < kLanes; lane += Simd::kWidth) {
    to_columns<Simd>(work.query_rows + lane * work.dim_padded, work.dim_padded, dim, work.query_columns + lane, kLanes);
    to_columns<Simd>(work.dout_rows + lane * work.dim_padded, work.dim_padded, dim, work.dout_columns + lane, kLanes);
  }
}

// One vector of queries and one key: dS from P, dP and (beta + alpha e); adds F to the row's sum and to the key's column.
inline Simd::Vector score_gradient(Simd::Vector p, Simd::Vector dp_less_dot, Simd::Vector weight, Simd::Vector scale,
                                   Simd::Vector twice_delta, Simd::Vector& row_force, float* column) {
  const Simd::Vector g = Simd::mul(p, dp_less_dot), f = Simd::mul(g, weight);
  row_force = Simd::add(row_force, f);
  Simd::store(column, Simd::add(Simd::load(column), f));
  return Simd::fma(twice_delta, f, Simd::mul(scale, g));
}

// P and dS of a tile of keys, in place of S and dP; adds the forces to their sums. `column`: the keys' sums.
template <bool Attraction>
[[gnu::noinline]] void differentiate(const Constants constants, const Problem problem, const KeyTile keys, const float* key_norms,
                                     const BackwardWorkspace& work, QueryBlock& block, float* column) {
  using Vector = Simd::Vector;
  const Vector scale = Simd::set1(problem.scale), twice_delta = Simd::set1(2 * problem.delta);
  for (int n = 0; n < Simd::kVectors; ++n) {
    const std::int64_t lane = n * Simd::kWidth;
    const Vector norm2 = Simd::load(block.norm2 + lane), shift = Simd::load(block.shift + lane);
    const Vector fraction = Simd::load(block.fraction + lane), row_dot = Simd::load(block.row_dot + lane);
    Vector row_force = Simd::load(block.force + lane);
    for (std::int64_t j = 0; j < keys.count; ++j) {
      float *probability = work.probability + j * kLanes + lane, *dscore = work.dscore + j * kLanes + lane;
      const Vector s = Simd::load(probability);
      Vector y = exponent(constants, s, keys.bias[j]);
      Vector weight = Simd::set1(problem.beta);
      if constexpr (Attraction) {
        const Vector distance = Simd::sub(Simd::add(norm2, Simd::set1(key_norms[j])), Simd::add(s, s));
        const Vector z = Simd::min(Simd::mul(distance, Simd::set1(-constants.distance)), Simd::zero());
        const Vector e = Simd::exp2(z);
        y = Simd::fma(e, Simd::set1(constants.attraction), y);
        weight = Simd::fma(e, Simd::set1(problem.alpha), weight);
      }
      const Vector p = Simd::exp2(Simd::add(y, fraction), shift);
      const Vector change = Simd::sub(Simd::load(dscore), row_dot);
      Simd::store(probability, p);
      Simd::store(dscore, score_gradient(p, change, weight, scale, twice_delta, row_force, column + j * Simd::kWidth));
    }
    Simd::store(block.force + lane, row_force);
  }
}

// The same in loops of few values: y and a e by `attract`, then P, then the gradients.
template <bool Attraction>
[[gnu::noinline]] void exponentiate(const Constants& constants, const KeyTile& keys, float* scores, const QueryBlock& block) {
  for (int n = 0; n < Simd::kVectors; ++n) {
    const Simd::Vector shift = Simd::load(block.shift + n * Simd::kWidth), fraction = Simd::load(block.fraction + n * Simd::kWidth);
    float* place = scores + n * Simd::kWidth;
    for (std::int64_t j = 0; j < keys.count; ++j, place += kLanes) {
      Simd::Vector y = Simd::load(place);
      if constexpr (!Attraction) y = exponent(constants, y, keys.bias[j]);
      Simd::store(place, Simd::exp2(Simd::add(y, fraction), shift));
    }
  }
}

template <bool Attraction>
[[gnu::noinline]] void gradients(const Problem& problem, const KeyTile& keys, const BackwardWorkspace& work, QueryBlock& block,
                                 float* column) {
  using Vector = Simd::Vector;
  const Vector scale = Simd::set1(problem.scale), twice_delta = Simd::set1(2 * problem.delta), beta = Simd::set1(problem.beta);
  for (int n = 0; n < Simd::kVectors; ++n) {
    const std::int64_t lane = n * Simd::kWidth;
    const Vector row_dot = Simd::load(block.row_dot + lane);
    Vector row_force = Simd::load(block.force + lane);
    for (std::int64_t j = 0; j < keys.count; ++j) {
      const std::int64_t place = j * kLanes + lane;
      Vector weight = beta;
      if constexpr (Attraction) weight = Simd::fma(Simd::load(work.attraction + place), Simd::set1(kLn2), beta);
      const Vector change = Simd::sub(Simd::load(work.dscore + place), row_dot);
      Simd::store(work.dscore + place, score_gradient(Simd::load(work.probability + place), change, weight, scale, twice_delta, row_force,
                                                      column + j * Simd::kWidth));
    }
    Simd::store(block.force + lane, row_force);
  }
}

// gradient - pull * row, to `target` elements after `start`.
inline void write_gradient(const Problem& problem, const float* gradient, float pull, const float* row, void* start, std::int64_t target) {
  float line[128];
  for (std::int64_t d = 0; d < problem.head_dim; ++d) line[d] = gradient[d] - pull * row[d];
  write_floats(start, problem.dtype, target, problem.head_dim, line);
}

[[gnu::noinline]] inline void write_queries(const Backward& call, std::int64_t start, std::int64_t count, const BackwardWorkspace& work,
                                            const QueryBlock& block) {
  const Problem& problem = call.problem;
  float lines[Simd::kWidth * 128];
  for (std::int64_t lane = 0; lane < count; lane += Simd::kWidth) {
    to_rows<Simd>(work.dquery + lane, kLanes, problem.head_dim, lines, 128);
    for (std::int64_t i = lane; i < count && i < lane + Simd::kWidth; ++i) {
      write_gradient(problem, lines + (i - lane) * 128, 2 * problem.delta * block.force[i], work.query_rows + i * work.dim_padded,
                     call.dquery, start + i * call.grad_strides.token);
    }
  }
}

[[gnu::noinline]] inline void write_keys(const Backward& call, std::int64_t start, const Head& head, const BackwardWorkspace& work) {
  const Problem& problem = call.problem;
  for (std::int64_t j = 0; j < problem.tokens; ++j) {
    const float pull = 2 * problem.delta * Simd::sum(Simd::load(work.force + j * Simd::kWidth));
    const std::int64_t target = start + j * call.grad_strides.token;
    write_gradient(problem, work.dkey + j * work.dim_padded, pull, head.keys + j * head.key_stride, call.dkey, target);
    write_floats(call.dvalue, problem.dtype, target, problem.head_dim, work.dvalue + j * work.dim_padded);
  }
}

template <bool Attraction>
void backward_head(const Backward& call, std::int64_t index, const BackwardWorkspace& work) {
  const Problem& problem = call.problem;
  const Constants constants(problem);
  const std::int64_t batch = index / problem.heads, head_index = index % problem.heads, dim = problem.head_dim;
  const std::int64_t tokens = problem.tokens, padded = work.dim_padded;
  const Head head = prepare_head(problem, Head::Source{call.key, call.key_strides}, Head::Source{call.value, call.value_strides}, batch,
                                 head_index, Head::Room{work.keys, work.values, work.key_norms, nullptr, nullptr});
  bias_keys(constants, head.key_norms, tokens, work.key_bias, work.key_distance);
  std::fill(work.dkey, work.dkey + round_up(tokens, kRowsStep) * padded, 0.0F);
  std::fill(work.dvalue, work.dvalue + round_up(tokens, kRowsStep) * padded, 0.0F);
  std::fill(work.force, work.force + tokens * Simd::kWidth, 0.0F);
  const std::int64_t grad_start = batch * call.grad_strides.batch + head_index * call.grad_strides.head;
  QueryBlock block;
  for (std::int64_t first = 0; first < tokens; first += kLanes) {
    const std::int64_t count = tokens - first < kLanes ? tokens - first : kLanes;
    load_block(call, constants, batch, head_index, first, count, work, block);
    std::fill(work.dquery, work.dquery + dim * kLanes, 0.0F);
    for (std::int64_t start = 0; start < tokens; start += kBackwardKeys) {
      const std::int64_t keys = tokens - start < kBackwardKeys ? tokens - start : kBackwardKeys;
      const std::int64_t padded_keys = round_up(keys, kRowsStep);
      const float *key = head.keys + start * head.key_stride, *value = head.values + start * head.value_stride;
      const Rows probability{work.probability, kLanes}, dscore{work.dscore, kLanes};
      product<Simd::kVectors, false>(key, head.key_stride, 1, Rows{work.query_columns, kLanes}, padded_keys, dim, probability);
      product<Simd::kVectors, false>(value, head.value_stride, 1, Rows{work.dout_columns, kLanes}, padded_keys, dim, dscore);
      const KeyTile tile{work.key_bias + start, work.key_distance + start, nullptr, keys};
      float* column = work.force + start * Simd::kWidth;
      if constexpr (kTwoLoops) {
        if constexpr (Attraction) {
          attract<true>(constants, tile, work.probability, Simd::kVectors, block.distance, work.attraction);
        }
        exponentiate<Attraction>(constants, tile, work.probability, block);
        gradients<Attraction>(problem, tile, work, block, column);
      } else {
        differentiate<Attraction>(constants, problem, tile, head.key_norms + start, work, block, column);
      }
      product<Simd::kVectors, true>(key, 1, head.key_stride, dscore, dim, keys, Rows{work.dquery, kLanes});
      add_outer(work.probability, Rows{work.dout_rows, padded}, padded_keys, padded, Rows{work.dvalue + start * padded, padded});
      add_outer(work.dscore, Rows{work.query_rows, padded}, padded_keys, padded, Rows{work.dkey + start * padded, padded});
    }
    write_queries(call, grad_start + first * call.grad_strides.token, count, work, block);
  }
  write_keys(call, grad_start, head, work);
}

inline std::size_t backward_workspace(const Problem& problem) {
  BackwardWorkspace work;
  return static_cast<std::size_t>(work.carve(problem, nullptr)) * sizeof(float);
}

inline void run_backward(const Backward& call, std::int64_t begin, std::int64_t end, char* workspace) {
  BackwardWorkspace work;
  work.carve(call.problem, reinterpret_cast<float*>(workspace));
  for (std::int64_t index = begin; index < end; ++index) {
    if (call.problem.alpha > 0) {
      backward_head<true>(call, index, work);
    } else {
      backward_head<false>(call, index, work);
    }
  }
}

}  // namespace
}  // namespace esat::attention

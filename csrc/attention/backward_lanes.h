// The backward kernel for vector units, in float32 inside. With P = exp(A - lse), e = exp(-r), dP = dout v^T and D_i = dout_i . out_i:
//   G = P (dP - D),  F = G (beta + alpha e),  dS = scale G + 2 delta F,
//   dq_i = sum_j dS_ij k_j - 2 delta q_i sum_j F_ij,  dk_j = sum_i dS_ij q_i - 2 delta k_j sum_i F_ij,  dv_j = sum_i P_ij dout_i.
// Queries lie in the lanes as in the forward kernel; one thread owns a head, so that dk and dv need no locks. Include a simd_*.h first.
#pragma once

#include <cstdint>

#include "attention/convert.h"
#include "attention/head.h"
#include "attention/kernels.h"
#include "attention/product.h"
#include "attention/scores.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kLanes = Simd::kVectors * Simd::kWidth;
constexpr std::int64_t kBackwardKeys = 32;

struct BackwardWorkspace {
  float *keys, *values, *key_norms;
  float *query_columns, *dout_columns, *query_rows, *dout_rows;  // [D][lanes] and [lanes][D padded]
  float *probability, *dscore;                                   // [keys][lanes]
  float *dquery, *dkey, *dvalue, *force;                         // [D][lanes], [N][D padded] twice, [N][one vector]
  std::int64_t dim_padded;

  // Carves the arrays out of `memory` (may be null) and returns the floats needed.
  std::int64_t carve(const Problem& problem, float* memory) {
    dim_padded = round_up(problem.head_dim, Simd::kWidth);
    const std::int64_t copy = problem.dtype == Dtype::f32 ? 0 : round_up(problem.tokens * problem.head_dim, 16);
    std::int64_t used = 0;
    const auto take = [&](std::int64_t count) {
      float* start = memory == nullptr ? nullptr : memory + used;
      used += round_up(count, 16);
      return start;
    };
    keys = take(copy);
    values = take(copy);
    key_norms = take(round_up(problem.tokens, 64));
    query_columns = take(problem.head_dim * kLanes);
    dout_columns = take(problem.head_dim * kLanes);
    query_rows = take(kLanes * dim_padded);
    dout_rows = take(kLanes * dim_padded);
    probability = take(kBackwardKeys * kLanes);
    dscore = take(kBackwardKeys * kLanes);
    dquery = take(problem.head_dim * kLanes);
    dkey = take(problem.tokens * dim_padded);
    dvalue = take(problem.tokens * dim_padded);
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
  for (; d < dim_padded; d += Simd::kWidth) {
    product<1, true>(a, kLanes, 1, Rows{b.start + d, b.stride}, rows, kLanes, Rows{c.start + d, c.stride});
  }
}

struct QueryBlock {
  alignas(64) float norm2[kLanes];
  alignas(64) float shift[kLanes];     // the row's constant in log2 P: an integer
  alignas(64) float fraction[kLanes];  // and the rest
  alignas(64) float row_dot[kLanes];   // D_i
  alignas(64) float force[kLanes];     // sum_j F_ij
};

inline void load_block(const Backward& call, const Constants& constants, std::int64_t batch, std::int64_t head, std::int64_t first,
                       std::int64_t count, const BackwardWorkspace& work, QueryBlock& block) {
  const Problem& problem = call.problem;
  const std::int64_t dim = problem.head_dim;
  const auto start = [&](const Strides& strides, std::int64_t i) {
    return batch * strides.batch + head * strides.head + (first + i) * strides.token;
  };
  float out[128];
  for (std::int64_t i = 0; i < kLanes; ++i) {
    float *query = work.query_rows + i * work.dim_padded, *dout = work.dout_rows + i * work.dim_padded;
    for (std::int64_t d = 0; d < work.dim_padded; ++d) query[d] = dout[d] = 0;
    block.norm2[i] = block.row_dot[i] = block.shift[i] = block.fraction[i] = 0;
    if (i < count) {
      read_floats(call.query, problem.dtype, start(call.query_strides, i), dim, query);
      read_floats(call.dout, problem.dtype, start(call.dout_strides, i), dim, dout);
      read_floats(call.out, problem.dtype, start(call.out_strides, i), dim, out);
      block.norm2[i] = dot(query, query, dim);
      block.row_dot[i] = dot(dout, out, dim);
      const float lse = call.lse[(batch * problem.heads + head) * problem.tokens + first + i];
      const RowConstant constant = row_constant(constants, lse, block.norm2[i]);
      block.shift[i] = constant.shift;
      block.fraction[i] = constant.fraction;
    }
    for (std::int64_t d = 0; d < dim; ++d) {
      work.query_columns[d * kLanes + i] = query[d];
      work.dout_columns[d * kLanes + i] = dout[d];
    }
    block.force[i] = 0;
  }
}

// P and dS of `keys` keys from `first`, in place of S and dP; adds the forces to their sums.
template <bool Attraction>
inline void differentiate(const Constants& constants, const Problem& problem, const Head& head, std::int64_t first, std::int64_t keys,
                          const BackwardWorkspace& work, QueryBlock& block) {
  using Vector = Simd::Vector;
  const Vector scale = Simd::set1(problem.scale), twice_delta = Simd::set1(2 * problem.delta);
  for (int n = 0; n < Simd::kVectors; ++n) {
    const std::int64_t lane = n * Simd::kWidth;
    const Vector norm2 = Simd::load(block.norm2 + lane), shift = Simd::load(block.shift + lane);
    const Vector fraction = Simd::load(block.fraction + lane), row_dot = Simd::load(block.row_dot + lane);
    Vector row_force = Simd::load(block.force + lane);
    for (std::int64_t j = 0; j < keys; ++j) {
      float *probability = work.probability + j * kLanes + lane, *dscore = work.dscore + j * kLanes + lane;
      const float norm = head.key_norms[first + j];
      const Vector s = Simd::load(probability);
      Vector y = Simd::fma(s, Simd::set1(constants.product), Simd::set1(constants.key_bias * norm));
      Vector weight = Simd::set1(problem.beta);
      if (Attraction) {
        const Vector distance = Simd::sub(Simd::add(norm2, Simd::set1(norm)), Simd::add(s, s));
        const Vector z = Simd::min(Simd::mul(distance, Simd::set1(-constants.distance)), Simd::zero());
        const Vector e = Simd::exp2(z, Simd::zero());
        y = Simd::fma(e, Simd::set1(constants.attraction), y);
        weight = Simd::fma(e, Simd::set1(problem.alpha), weight);
      }
      const Vector p = Simd::exp2(Simd::add(y, fraction), shift);
      const Vector g = Simd::mul(p, Simd::sub(Simd::load(dscore), row_dot));
      const Vector f = Simd::mul(g, weight);
      row_force = Simd::add(row_force, f);
      float* column = work.force + (first + j) * Simd::kWidth;
      Simd::store(column, Simd::add(Simd::load(column), f));
      Simd::store(probability, p);
      Simd::store(dscore, Simd::fma(twice_delta, f, Simd::mul(scale, g)));
    }
    Simd::store(block.force + lane, row_force);
  }
}

template <bool Attraction>
void backward_head(const Backward& call, std::int64_t index, const BackwardWorkspace& work) {
  const Problem& problem = call.problem;
  const Constants constants(problem);
  const std::int64_t batch = index / problem.heads, head_index = index % problem.heads, dim = problem.head_dim;
  const std::int64_t tokens = problem.tokens, padded = work.dim_padded;
  const Head head = prepare_head(problem, Head::Source{call.key, call.key_strides}, Head::Source{call.value, call.value_strides}, batch,
                                 head_index, Head::Room{work.keys, work.values, work.key_norms, nullptr});
  for (std::int64_t i = 0; i < tokens * padded; ++i) work.dkey[i] = work.dvalue[i] = 0;
  for (std::int64_t i = 0; i < tokens * Simd::kWidth; ++i) work.force[i] = 0;
  const std::int64_t grad_start = batch * call.grad_strides.batch + head_index * call.grad_strides.head;
  QueryBlock block;
  for (std::int64_t first = 0; first < tokens; first += kLanes) {
    const std::int64_t count = tokens - first < kLanes ? tokens - first : kLanes;
    load_block(call, constants, batch, head_index, first, count, work, block);
    for (std::int64_t i = 0; i < dim * kLanes; ++i) work.dquery[i] = 0;
    for (std::int64_t start = 0; start < tokens; start += kBackwardKeys) {
      const std::int64_t keys = tokens - start < kBackwardKeys ? tokens - start : kBackwardKeys;
      const float *key = head.keys + start * head.key_stride, *value = head.values + start * head.value_stride;
      const Rows probability{work.probability, kLanes}, dscore{work.dscore, kLanes};
      product<Simd::kVectors, false>(key, head.key_stride, 1, Rows{work.query_columns, kLanes}, keys, dim, probability);
      product<Simd::kVectors, false>(value, head.value_stride, 1, Rows{work.dout_columns, kLanes}, keys, dim, dscore);
      differentiate<Attraction>(constants, problem, head, start, keys, work, block);
      product<Simd::kVectors, true>(key, 1, head.key_stride, dscore, dim, keys, Rows{work.dquery, kLanes});
      add_outer(work.probability, Rows{work.dout_rows, padded}, keys, padded, Rows{work.dvalue + start * padded, padded});
      add_outer(work.dscore, Rows{work.query_rows, padded}, keys, padded, Rows{work.dkey + start * padded, padded});
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const float pull = 2 * problem.delta * block.force[i];
      for (std::int64_t d = 0; d < dim; ++d) {
        const float value = work.dquery[d * kLanes + i] - pull * work.query_rows[i * padded + d];
        write_float(call.dquery, problem.dtype, grad_start + (first + i) * call.grad_strides.token + d, value);
      }
    }
  }
  for (std::int64_t j = 0; j < tokens; ++j) {
    float force = 0;
    for (int lane = 0; lane < Simd::kWidth; ++lane) force += work.force[j * Simd::kWidth + lane];
    const float pull = 2 * problem.delta * force;
    const std::int64_t target = grad_start + j * call.grad_strides.token;
    for (std::int64_t d = 0; d < dim; ++d) {
      write_float(call.dkey, problem.dtype, target + d, work.dkey[j * padded + d] - pull * head.keys[j * head.key_stride + d]);
      write_float(call.dvalue, problem.dtype, target + d, work.dvalue[j * padded + d]);
    }
  }
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

// The softmax of 16 queries over tiles of 64 keys by one warp, in the registers of mma.m16n8k16, which wgmma's are too: what the kernels
// for sm_80 and sm_90a share. Include sm80_primitives.cuh before it (or, for the host, an emulation of the same functions).
//
// Base-2 exponents throughout. With S = q . k, c = (scale + 2 beta delta) log2 e, d = delta log2 e, b = beta d and a = alpha log2 e, the
// logit of key j is
//   c S - b |k_j|^2 + a 2^-(d |q_i - k_j|^2);  the repulsion's |q_i|^2 is constant along a row and softmax does not see it.
// A row has a reference m, subtracted before the exponential: any number does that keeps the row's sum within [2^-60, 2^60]. It starts at 0
// and stays, no maximum is taken. Only a tile that takes a sum out of that range is done again with its exact maximum.
#pragma once

#include <cstdint>

#include "attention/attention_cuda.h"
#include "attention/fda_sm80_layout.h"

namespace esat::sm80 {

using cuda::Forward;
using cuda::Strides;

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kSmallestSum = 8.673617379884035e-19f, kLargestSum = 1.152921504606847e18f;  // 2^-60, 2^60
inline constexpr float kLargestExponent = 110.0f;    // of a factor that is split off an exponential
inline constexpr std::uint32_t kOnes = 0x3f803f80u;  // two ones in bf16
inline constexpr int kColumns = kKeysPerTile / 8;

ESAT_DEVICE const unsigned char* slice(const void* base, const Strides& strides, int batch, int head) {
  return static_cast<const unsigned char*>(base) + 2 * (batch * strides.batch + head * strides.head);
}

// The two terms of key `key` into shared memory. A key beyond the last token gets probability 0 from here; loops over keys need no mask.
ESAT_DEVICE void write_key_terms(const Forward& call, int batch, int head, int key, float* terms) {
  const bool valid = key < call.tokens;
  const std::int64_t at = batch * call.norm_strides.batch + head * call.norm_strides.head + key * call.norm_strides.token;
  const float norm = valid && call.key_norms != nullptr ? call.key_norms[at] : 0.0f;
  const float exponent = valid ? -(call.delta * kLog2E) * norm : -INFINITY;
  terms[0] = exponent;
  terms[1] = valid ? call.beta * exponent : -INFINITY;
}

// The queries [first_row, first_row + 16) as left operands. Rows beyond the last token are zeros and never stored.
template <int D>
ESAT_DEVICE void load_queries(const Forward& call, int batch, int head, int first_row, std::uint32_t (&q)[D / 16][4]) {
  const int lane = thread_index() % kWarp;
  const unsigned char* query = slice(call.query, call.query_strides, batch, head);
#pragma unroll
  for (int s = 0; s < D / 16; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + left_row(lane, i);
      q[s][i] = 0;
      if (row < call.tokens) {
        q[s][i] = *reinterpret_cast<const std::uint32_t*>(query + 2 * (row * call.query_strides.token + 16 * s + left_column(lane, i)));
      }
    }
  }
}

ESAT_DEVICE void probabilities(std::uint32_t (&p)[kColumns / 2][4], const float (&s)[kColumns][4]) {
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
    p[n / 2][n % 2 * 2] = pack(exp2_fast(s[n][0]), exp2_fast(s[n][1]));
    p[n / 2][n % 2 * 2 + 1] = pack(exp2_fast(s[n][2]), exp2_fast(s[n][3]));
  }
}

// sum + the row sums of the probabilities p, as the product with v sees them: so the rounding of a dominant one cancels.
ESAT_DEVICE void add_sums(float (&sum)[4], const std::uint32_t (&p)[kColumns / 2][4]) {
  const float zero[4] = {};
  float other[4];
  multiply(sum, p[0], kOnes, kOnes, sum);
  multiply(other, p[1], kOnes, kOnes, zero);
  multiply(sum, p[2], kOnes, kOnes, sum);
  multiply(other, p[3], kOnes, kOnes, other);
#pragma unroll
  for (int i = 0; i < 4; i += 2) sum[i] += other[i];
}

ESAT_DEVICE bool in_range(float sum) { return sum >= kSmallestSum && sum <= kLargestSum; }

// The two rows that a thread shares with three others. `sum` is a tile of sums like `acc`: every column of it is the same.
template <int D, bool Attract>
struct Softmax {
  const Forward& call;
  float slope, force, attraction;  // c, d, a
  float q_force[2];                // -d |q|^2
  float acc[D / 8][4] = {};
  float sum[4] = {};
  float reference[2] = {};
  // For a reference m the products start at -m / c, so that c S - b |k|^2 comes out less m. The attraction's exponential then lacks
  // 2^(2 d m / c - d |q|^2), which is a factor of the row. A warp in which that may overflow does every tile exactly.
  float start[4] = {};
  float row_attraction[2];
  bool exact;
  int wanted;  // the row of this warp that the elimination asks for, if this lane has a part of it, else -1

  ESAT_DEVICE Softmax(const Forward& from, const std::uint32_t (&q)[D / 16][4], int first_row)
      : call(from),
        slope((from.scale + 2.0f * from.beta * from.delta) * kLog2E),
        force(from.delta * kLog2E),
        attraction(from.alpha * kLog2E) {
    const int lane = thread_index() % kWarp, group = fragment_group(lane);
    float norm_low[4] = {}, norm_high[4] = {};
#pragma unroll
    for (int s = 0; s < D / 16; ++s) {
      multiply(norm_low, q[s], q[s][0], q[s][2], norm_low);
      multiply(norm_high, q[s], q[s][1], q[s][3], norm_high);
    }
    q_force[0] = -force * shuffle(diagonal_index(lane) ? norm_low[1] : norm_low[0], diagonal_lane(group));
    q_force[1] = -force * shuffle(diagonal_index(lane) ? norm_high[3] : norm_high[2], diagonal_lane(group));
#pragma unroll
    for (int row = 0; row < 2; ++row) row_attraction[row] = attraction * exp2_fast(q_force[row]);
    exact = !all(q_force[0] >= -kLargestExponent && q_force[1] >= -kLargestExponent);
    wanted = call.row_logits != nullptr ? call.template_token - first_row : -1;
    if (wanted >= kRowsPerWarp || wanted % 8 != group) wanted = -1;
  }

  ESAT_DEVICE void scale(int row, float factor) {
    sum[2 * row] *= factor;
    sum[2 * row + 1] *= factor;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      acc[n][2 * row] *= factor;
      acc[n][2 * row + 1] *= factor;
    }
  }

  ESAT_DEVICE void keep_logits(const float (&s)[kColumns][4], int tile, float low_reference, float high_reference) const {
    if (wanted < 0) return;
    float* logits = call.row_logits + static_cast<std::int64_t>(block_row()) * call.tokens;
    const float offset = wanted < 8 ? low_reference + call.beta * q_force[0] : high_reference + call.beta * q_force[1];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int key = opaque(tile) * kKeysPerTile + n * 8 + fragment_pair(thread_index() % kWarp) + column;
        if (key < call.tokens) logits[key] = (wanted < 8 ? s[n][column] : s[n][2 + column]) + offset;
      }
    }
  }

  // From products (with `start`) to logits less the reference. `terms`: of this lane's keys.
  ESAT_DEVICE void logits(float (&s)[kColumns][4], Shared terms, int tile) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      float term[4];
      load_floats(term, terms + n * 8 * kTermBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float product = s[n][i];
        s[n][i] = slope * product + term[i % 2 * 2 + 1];
        if constexpr (Attract) {
          s[n][i] += row_attraction[i / 2] * exp2_fast(2.0f * force * product + term[i % 2 * 2]);
        }
      }
    }
    keep_logits(s, tile, reference[0], reference[1]);
  }

  // Adds p to the sums. If one leaves the range, nothing is added, and the tile has to be done exactly.
  ESAT_DEVICE bool add(const std::uint32_t (&p)[kColumns / 2][4]) {
    float total[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i] = sum[i];
    add_sums(total, p);
    if (!all(in_range(total[0]) && in_range(total[2]))) return false;
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = total[i];
    return true;
  }

  // From products (without `start`) to logits less their exact maximum, which is the reference from here on. `empty`: nothing was added
  // yet.
  ESAT_DEVICE void exact_logits(float (&s)[kColumns][4], Shared terms, int tile, bool empty) {
    float largest[2] = {empty ? -INFINITY : reference[0], empty ? -INFINITY : reference[1]};
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      float term[4];
      load_floats(term, terms + n * 8 * kTermBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float product = s[n][i];
        s[n][i] = slope * product + term[i % 2 * 2 + 1];
        if constexpr (Attract) {
          s[n][i] += attraction * exp2_fast(minimum(2.0f * force * product + (term[i % 2 * 2] + q_force[i / 2]), 0.0f));
        }
        largest[i / 2] = maximum(largest[i / 2], s[n][i]);
      }
    }
    keep_logits(s, tile, 0.0f, 0.0f);
    exact = false;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      largest[row] = maximum(largest[row], shuffle_xor(largest[row], 1));
      largest[row] = maximum(largest[row], shuffle_xor(largest[row], 2));
      scale(row, empty ? 0.0f : exp2_fast(reference[row] - largest[row]));
      reference[row] = largest[row];
      start[2 * row] = start[2 * row + 1] = -largest[row] / slope;
      const float factor = q_force[row] - 2.0f * force * start[2 * row];
      row_attraction[row] = attraction * exp2_fast(factor);
      exact = exact || !(factor >= -kLargestExponent && factor <= kLargestExponent);
    }
    exact = !all(!exact);
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] -= largest[i / 2];
    }
  }
};

}  // namespace esat::sm80

// The body of the attention kernel. Include sm80_primitives.cuh before it (or, for the host, an emulation of the same functions).
//
// Base-2 exponents throughout. With S = q . k, c = (scale + 2 beta delta) log2 e, d = delta log2 e, b = beta d and a = alpha log2 e, the
// logit of key j is
//   c S - b |k_j|^2 + a 2^-(d |q_i - k_j|^2);  the repulsion's |q_i|^2 is constant along a row and softmax does not see it.
// A row has a reference m, subtracted before the exponential: any number does that keeps the row's sum within [2^-60, 2^60]. It starts at 0
// and stays, no maximum is taken. Only a tile that takes a sum out of that range is done again with its exact maximum (`exact_tile`).
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

// What a thread copies of every tile: 16 bytes of some rows, whose numbers rise by a constant. 8 lanes share a row, 4 where it has 64
// bytes.
template <int D, int Warps>
struct Copies {
  static constexpr int kLanes = D / 8;
  static constexpr int kRows = threads_per_half(Warps) / kLanes;  // between a thread's rows
  const unsigned char* key;                                       // columns of this thread in row 0
  const unsigned char* value;
  Shared shared;  // its first row and columns in a tile
  int key_bytes, value_bytes, row, last_key;

  ESAT_DEVICE Copies(const Forward& call, int batch, int head, int thread, Shared first_tile)
      : key(opaque(slice(call.key, call.key_strides, batch, head) + thread % kLanes * 16)),
        value(opaque(slice(call.value, call.value_strides, batch, head) + thread % kLanes * 16)),
        shared(first_tile + thread / kLanes * pitch(D) + thread % kLanes * 16),
        key_bytes(opaque(2 * static_cast<int>(call.key_strides.token))),
        value_bytes(opaque(2 * static_cast<int>(call.value_strides.token))),
        row(thread / kLanes),
        last_key(call.tokens - 1) {}

  // Tile `tile` of keys and values into the stage at `offset`. Rows beyond the last token repeat it: their probability is 0.
  ESAT_DEVICE void load(int tile, int offset) const {
#pragma unroll
    for (int first = 0; first < kKeysPerTile; first += kRows) {
      if (first + kRows > kKeysPerTile && first + row >= kKeysPerTile) break;
      const int token = smaller(tile * kKeysPerTile + row + first, last_key);
      const Shared to = shared + offset + first * pitch(D);
      copy_async(to, key + std::int64_t{token} * key_bytes);
      copy_async(to + tile_bytes(D), value + std::int64_t{token} * value_bytes);
    }
    copy_commit();
  }
};

// Softmax of the two rows that a thread shares with three others. `sum` is a tile of sums like `acc`: every column of it is the same.
template <int D>
struct State {
  float acc[D / 8][4] = {};
  float sum[4] = {};
  float reference[2] = {};

  ESAT_DEVICE void scale(int row, float factor) {
    sum[2 * row] *= factor;
    sum[2 * row + 1] *= factor;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      acc[n][2 * row] *= factor;
      acc[n][2 * row + 1] *= factor;
    }
  }
};

// s = q k^T + start for a tile of keys; `keys` is this lane's address in it.
template <int D>
ESAT_DEVICE void query_key_product(float (&s)[kColumns][4], const std::uint32_t (&q)[D / 16][4], Shared keys, const float (&start)[4]) {
#pragma unroll
  for (int n = 0; n < kColumns; n += 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = s[n + 1][i] = start[i];
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t k[4];
      load_matrix(k, keys + n * 8 * pitch(D) + 32 * d);
      multiply(s[n], q[d], k[0], k[1], s[n]);
      multiply(s[n + 1], q[d], k[2], k[3], s[n + 1]);
    }
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

// One block: queries [16 Warps * block_column, ...) of slice block_row = batch * heads + head.
template <int D, bool Attract, int Warps>
ESAT_DEVICE void fda_forward_block(const Forward& call) {
  constexpr int kSteps = D / 16;
  constexpr int kHalfThreads = threads_per_half(Warps);
  unsigned char* smem = shared_memory();
  const int half = thread_index() / kHalfThreads;
  const int thread = thread_index() % kHalfThreads;
  const int lane = thread % kWarp;
  const int group = fragment_group(lane), pair = fragment_pair(lane);
  const int batch = block_row() / call.heads, head = block_row() % call.heads;
  const int tokens = call.tokens;
  const int first_row = (block_column() * Warps + thread / kWarp) * kRowsPerWarp;

  const float slope = (call.scale + 2.0f * call.beta * call.delta) * kLog2E;
  const float force = call.delta * kLog2E;
  const float attraction = call.alpha * kLog2E;

  const int first = first_tile(tokens, half), last = last_tile(tokens, half);
  const Shared shared = shared_address(smem);
  const Copies<D, Warps> copies(call, batch, head, thread, shared + key_tile(D, half, 0));
  if (first < last) copies.load(first, 0);

  // The terms of this half's keys. Keys beyond the last token get probability 0 from here; the loops below need no mask.
  for (int key = first * kKeysPerTile + thread; key < last * kKeysPerTile; key += kHalfThreads) {
    float* terms = reinterpret_cast<float*>(smem + key_terms(D, key));
    const bool valid = key < tokens;
    const std::int64_t at = batch * call.norm_strides.batch + head * call.norm_strides.head + key * call.norm_strides.token;
    const float norm = valid && call.key_norms != nullptr ? call.key_norms[at] : 0.0f;
    const float exponent = valid ? -force * norm : -INFINITY;
    terms[0] = exponent;
    terms[1] = valid ? call.beta * exponent : -INFINITY;
  }

  // Queries stay in registers; rows beyond the last token are zeros and never stored.
  std::uint32_t q[kSteps][4];
  float norm_low[4] = {}, norm_high[4] = {};
  const unsigned char* query = slice(call.query, call.query_strides, batch, head);
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + left_row(lane, i);
      q[s][i] = 0;
      if (row < tokens) {
        q[s][i] = *reinterpret_cast<const std::uint32_t*>(query + 2 * (row * call.query_strides.token + 16 * s + left_column(lane, i)));
      }
    }
    multiply(norm_low, q[s], q[s][0], q[s][2], norm_low);
    multiply(norm_high, q[s], q[s][1], q[s][3], norm_high);
  }
  const float q_force[2] = {-force * shuffle(diagonal_index(lane) ? norm_low[1] : norm_low[0], diagonal_lane(group)),
                            -force * shuffle(diagonal_index(lane) ? norm_high[3] : norm_high[2], diagonal_lane(group))};

  State<D> state;
  // For a reference m the products start at -m / c, so that c S - b |k|^2 comes out less m. The attraction's exponential then lacks
  // 2^(2 d m / c - d |q|^2), which is a factor of the row. A warp in which that may overflow does every tile exactly.
  float start[4] = {};
  float row_attraction[2] = {attraction * exp2_fast(q_force[0]), attraction * exp2_fast(q_force[1])};
  bool exact = !all(q_force[0] >= -kLargestExponent && q_force[1] >= -kLargestExponent);

  // The row of this warp that the elimination asks for, if this lane has a part of it, else -1.
  int wanted = call.row_logits != nullptr ? call.template_token - first_row : -1;
  if (wanted >= kRowsPerWarp || wanted % 8 != group) wanted = -1;
  const auto keep_logits = [&](const float (&s)[kColumns][4], int tile, float low_reference, float high_reference) {
    if (wanted < 0) return;
    float* logits = call.row_logits + static_cast<std::int64_t>(block_row()) * tokens;
    const float offset = wanted < 8 ? low_reference + call.beta * q_force[0] : high_reference + call.beta * q_force[1];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int key = opaque(tile) * kKeysPerTile + n * 8 + pair + column;
        if (key < tokens) logits[key] = (wanted < 8 ? s[n][column] : s[n][2 + column]) + offset;
      }
    }
  };
  const auto probabilities = [&](std::uint32_t (&p)[kColumns / 2][4], const float (&s)[kColumns][4]) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      p[n / 2][n % 2 * 2] = pack(exp2_fast(s[n][0]), exp2_fast(s[n][1]));
      p[n / 2][n % 2 * 2 + 1] = pack(exp2_fast(s[n][2]), exp2_fast(s[n][3]));
    }
  };

  Shared terms = shared + key_terms(D, first * kKeysPerTile + pair);
  const Shared keys_lane = shared + key_tile(D, half, 0) + key_row(lane) * pitch(D) + 2 * key_column(lane);
  const Shared values_lane = shared + value_tile(D, half, 0) + value_row(lane) * pitch(D) + 2 * value_column(lane);
  int stage = 0;  // its offset in bytes

  for (int tile = first; tile < last; ++tile, terms += key_terms(D, kKeysPerTile) - key_terms(D, 0)) {
    copy_wait();
    barrier(1 + half, kHalfThreads);  // the tile (and at first the terms) is complete, and nobody reads the other stage any more
    const int next = key_tile(D, 0, 1) - stage;
    if (tile + 1 < last) copies.load(tile + 1, next);

    std::uint32_t p[kColumns / 2][4];
    float sum[4];
    bool good = false;
    if (!exact) {
      float s[kColumns][4];
      query_key_product<D>(s, q, keys_lane + stage, start);
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        float term[4];
        load_floats(term, terms + n * (key_terms(D, 8) - key_terms(D, 0)));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float product = s[n][i];
          s[n][i] = slope * product + term[i % 2 * 2 + 1];
          if constexpr (Attract) {
            s[n][i] += row_attraction[i / 2] * exp2_fast(2.0f * force * product + term[i % 2 * 2]);
          }
        }
      }
      keep_logits(s, tile, state.reference[0], state.reference[1]);
      probabilities(p, s);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] = state.sum[i];
      add_sums(sum, p);
      good = all(in_range(sum[0]) && in_range(sum[2]));
    }
    if (!good) {
      float s[kColumns][4];
      const float zero[4] = {};
      query_key_product<D>(s, q, keys_lane + stage, zero);
      const bool empty = tile == first;
      float largest[2] = {empty ? -INFINITY : state.reference[0], empty ? -INFINITY : state.reference[1]};
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        float term[4];
        load_floats(term, terms + n * (key_terms(D, 8) - key_terms(D, 0)));
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
        state.scale(row, empty ? 0.0f : exp2_fast(state.reference[row] - largest[row]));
        state.reference[row] = largest[row];
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
      probabilities(p, s);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] = state.sum[i];
      add_sums(sum, p);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) state.sum[i] = sum[i];
#pragma unroll
    for (int n = 0; n < kColumns / 2; ++n) {
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        std::uint32_t v[4];
        load_matrix_transposed(v, values_lane + stage + n * 16 * pitch(D) + 32 * d);
        multiply(state.acc[2 * d], p[n], v[0], v[1], state.acc[2 * d]);
        multiply(state.acc[2 * d + 1], p[n], v[2], v[3], state.acc[2 * d + 1]);
      }
    }
    stage = next;
  }

  float* merge = reinterpret_cast<float*>(smem);
  barrier(0, kHalves * kHalfThreads);  // both halves have left their tiles, whose memory the merge reuses
  if (half == 1) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) merge[merge_slot(thread, 4 * n + i, kHalfThreads)] = state.acc[n][i];
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      merge[merge_slot(thread, D / 2 + 2 * row, kHalfThreads)] = first < last ? state.reference[row] : -INFINITY;
      merge[merge_slot(thread, D / 2 + 2 * row + 1, kHalfThreads)] = state.sum[2 * row];
    }
  }
  barrier(0, kHalves * kHalfThreads);  // half 1 has written
  if (half == 1) return;

  unsigned char* out = const_cast<unsigned char*>(slice(call.out, call.out_strides, batch, head));
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float other = merge[merge_slot(thread, D / 2 + 2 * row, kHalfThreads)];
    const float reference = maximum(state.reference[row], other);
    state.scale(row, exp2_fast(state.reference[row] - reference));
    const float factor = exp2_fast(other - reference);
    const float inverse = 1.0f / (state.sum[2 * row] + factor * merge[merge_slot(thread, D / 2 + 2 * row + 1, kHalfThreads)]);
    const int token = first_row + group + 8 * row;
    if (token >= tokens) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float low = state.acc[n][2 * row] + factor * merge[merge_slot(thread, 4 * n + 2 * row, kHalfThreads)];
      const float high = state.acc[n][2 * row + 1] + factor * merge[merge_slot(thread, 4 * n + 2 * row + 1, kHalfThreads)];
      *reinterpret_cast<std::uint32_t*>(out + 2 * (token * call.out_strides.token + 8 * n + pair)) = pack(low * inverse, high * inverse);
    }
  }
}

// |k|^2 of the values that the products see, where no one else has left them. Eight lanes (four for D = 32) share a key; block_column
// counts blocks of thread_count() / lanes keys.
template <int D>
ESAT_DEVICE void fda_key_norms_thread(const Forward& call) {
  constexpr int kLanes = D / 8;
  const int key = (block_column() * thread_count() + thread_index()) / kLanes;
  const int batch = block_row() / call.heads, head = block_row() % call.heads;
  float sum = 0.0f;
  if (key < call.tokens) {
    std::uint32_t pairs[4];
    load_global(pairs, slice(call.key, call.key_strides, batch, head) + 2 * key * call.key_strides.token + thread_index() % kLanes * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float low = bf16_low(pairs[i]), high = bf16_high(pairs[i]);
      sum += low * low;
      sum += high * high;
    }
  }
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) sum += shuffle_xor(sum, distance);
  if (key < call.tokens && thread_index() % kLanes == 0) {
    call.key_norms[batch * call.norm_strides.batch + head * call.norm_strides.head + key * call.norm_strides.token] = sum;
  }
}

// One block for each batch: the template row's probabilities at the search tokens, mean over the heads in their order. A warp finds the
// logarithms of its heads' sums, then a thread takes its columns.
ESAT_DEVICE void fda_scores_block(const Forward& call) {
  float* log_sums = reinterpret_cast<float*>(shared_memory());
  const int lane = thread_index() % kWarp, warps = thread_count() / kWarp;
  const std::int64_t batch = block_row();
  for (int head = thread_index() / kWarp; head < call.heads; head += warps) {
    const float* logits = call.row_logits + (batch * call.heads + head) * call.tokens;
    float largest = -INFINITY, sum = 0.0f;
    for (int key = lane; key < call.tokens; key += kWarp) largest = maximum(largest, logits[key]);
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) largest = maximum(largest, shuffle_xor(largest, distance));
    for (int key = lane; key < call.tokens; key += kWarp) sum += exp2_fast(logits[key] - largest);
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) sum += shuffle_xor(sum, distance);
    if (lane == 0) log_sums[head] = largest + log2_fast(sum);
  }
  barrier(0, thread_count());
  const int columns = call.tokens - call.num_template;
  for (int column = thread_index(); column < columns; column += thread_count()) {
    float total = 0.0f;
    for (int head = 0; head < call.heads; ++head) {
      const float logit = call.row_logits[(batch * call.heads + head) * call.tokens + call.num_template + column];
      total += exp2_fast(logit - log_sums[head]);
    }
    call.scores[batch * columns + column] = total / static_cast<float>(call.heads);
  }
}

}  // namespace esat::sm80

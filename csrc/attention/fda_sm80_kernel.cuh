// The body of the attention kernel. Include sm80_primitives.cuh before it (or, for the host, an emulation of the same functions).
//
// Base-2 exponents throughout. With S = q . k, c = (scale + 2 beta delta) log2 e and d = delta log2 e, the logit of key j is
//   c S - beta d |k_j|^2 + alpha log2 e 2^-(d |q_i - k_j|^2);  the repulsion's |q_i|^2 is constant along a row and softmax does not see it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "attention/attention_cuda.h"
#include "attention/fda_sm80_layout.h"

namespace esat::sm80 {

using cuda::Forward;
using cuda::Strides;

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// 2^x for x <= 0 to a relative error of 2.1e-3, on the FMA units: enough for the attraction, which alpha scales, where P is rounded to
// bf16.
ESAT_DEVICE float exp2_polynomial(float x) {
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer part in the low bits
  x = maximum(x, -126.0f);
  const float shifted = add_round_down(x, shifter);
  const float fraction = x - (shifted - shifter);
  const float value = 1.0f + fraction * (0.66578507f + fraction * 0.33010706f);
  return from_bits(bits(value) + (bits(shifted) << 23));
}

ESAT_DEVICE const unsigned char* element(const void* base, const Strides& strides, int batch, int head, int token, int column) {
  return static_cast<const unsigned char*>(base) + 2 * (batch * strides.batch + head * strides.head + token * strides.token + column);
}

// One tile of keys or values [64, D] into shared memory; rows beyond the last token become zeros. 4 or 8 lanes share a row, which divides
// any number of warps: a thread goes down its columns by a constant step, without a division for each copy.
template <int D>
ESAT_DEVICE void load_tile(unsigned char* tile_smem, const void* tensor_gmem, const Strides& strides, int batch, int head, int first_key,
                           int tokens, int thread, int threads) {
  constexpr int kLanes = D % 64 == 0 ? 8 : 4;
  const int column = thread % kLanes * 8, rows = threads / kLanes;
  const unsigned char* from = element(tensor_gmem, strides, batch, head, first_key + thread / kLanes, column);
  for (int row = thread / kLanes; row < kKeysPerTile; row += rows, from += 2 * rows * strides.token) {
    const bool valid = first_key + row < tokens;
#pragma unroll
    for (int chunk = 0; chunk < D; chunk += 8 * kLanes) {
      const void* chunk_gmem = valid ? from + 2 * chunk : tensor_gmem;
      copy_async(tile_smem + row * pitch(D) + 2 * (column + chunk), chunk_gmem, valid);
    }
  }
}

// The squared norms of 16 keys, exactly those of the values that the product sees: the diagonal of their product with themselves.
template <class T, int D>
ESAT_DEVICE void key_norms(const unsigned char* keys_smem, int lane, float& low, float& high) {
  float first[4] = {}, second[4] = {};
  for (int d = 0; d < D; d += 16) {
    std::uint32_t k[4];
    load_matrix(k, keys_smem + key_row(lane) * pitch(D) + 2 * (d + key_column(lane)));
    const std::uint32_t left[4] = {k[0], k[2], k[1], k[3]};
    multiply<T>(first, left, k[0], k[1]);
    multiply<T>(second, left, k[2], k[3]);
  }
  low = diagonal_index(lane) ? first[1] : first[0];
  high = diagonal_index(lane) ? second[3] : second[2];
}

// Softmax state of the two rows that a thread shares with three others.
template <int D>
struct State {
  float acc[D / 8][4] = {};
  float row_max[2] = {-INFINITY, -INFINITY};
  float row_sum[2] = {};  // of this thread's columns only, until `finish`

  // Multiplies what is there by 2^(old - new maximum).
  ESAT_DEVICE void rescale(int row, float new_max) {
    const float factor = exp2_fast(row_max[row] - new_max);
    row_max[row] = new_max;
    row_sum[row] *= factor;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      acc[n][2 * row] *= factor;
      acc[n][2 * row + 1] *= factor;
    }
  }
};

// One block: queries [rows * block_column, ...) of slice block_row = batch * heads + head.
template <class T, int D, bool Attract>
ESAT_DEVICE void fda_forward_block(const Forward& call) {
  constexpr int kSteps = D / 16;
  constexpr int kColumns = kKeysPerTile / 8;
  unsigned char* smem = shared_memory();
  const int half_threads = thread_count() / kHalves;
  const int half = thread_index() / half_threads;
  const int thread = thread_index() % half_threads;
  const int lane = thread % kWarp;
  const int warp = thread / kWarp;
  const int warps = half_threads / kWarp;
  const int group = fragment_group(lane), pair = fragment_pair(lane);
  const int batch = block_row() / call.heads, head = block_row() % call.heads;
  const int tokens = call.tokens;
  const int first_row = (block_column() * warps + warp) * kRowsPerWarp;

  const float slope = (call.scale + 2.0f * call.beta * call.delta) * kLog2E;
  const float force = call.delta * kLog2E;
  const float attraction = call.alpha * kLog2E;
  const int polynomial_eighths = std::is_same_v<T, Bf16> ? ESAT_POLYNOMIAL_EIGHTHS : 0;  // fp16 would show the polynomial's error

  const int first = first_tile(tokens, half), last = last_tile(tokens, half);
  const auto load = [&](int tile) {
    const int stage = (tile - first) % kStages;
    const int first_key = tile * kKeysPerTile;
    load_tile<D>(smem + key_tile(D, half, stage), call.key, call.key_strides, batch, head, first_key, tokens, thread, half_threads);
    load_tile<D>(smem + value_tile(D, half, stage), call.value, call.value_strides, batch, head, first_key, tokens, thread, half_threads);
    copy_commit();
  };
  if (first < last) load(first);

  // Queries stay in registers; rows beyond the last token are zeros and never stored.
  std::uint32_t q[kSteps][4];
  float norm_low[4] = {}, norm_high[4] = {};
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + left_row(lane, i);
      q[s][i] = 0;
      if (row < tokens) {
        q[s][i] = *reinterpret_cast<const std::uint32_t*>(
            element(call.query, call.query_strides, batch, head, row, 16 * s + left_column(lane, i)));
      }
    }
    multiply<T>(norm_low, q[s], q[s][0], q[s][2]);
    multiply<T>(norm_high, q[s], q[s][1], q[s][3]);
  }
  const float q_norm[2] = {shuffle(diagonal_index(lane) ? norm_low[1] : norm_low[0], diagonal_lane(group)),
                           shuffle(diagonal_index(lane) ? norm_high[3] : norm_high[2], diagonal_lane(group))};
  const float q_force[2] = {-force * q_norm[0], -force * q_norm[1]};

  State<D> state;
  const int wanted = call.row_logits != nullptr ? call.template_token - first_row : -1;  // this warp's row that the elimination asks for
  float* terms = reinterpret_cast<float*>(smem + key_terms(D, half));

  for (int tile = first; tile < last; ++tile) {
    const int stage = (tile - first) % kStages;
    const unsigned char* keys_smem = smem + key_tile(D, half, stage);
    const unsigned char* values_smem = smem + value_tile(D, half, stage);
    copy_wait();
    barrier(1 + half, half_threads);  // the tile is complete, and nobody reads the other stage or the terms of the previous tile any more
    if (tile + 1 < last) load(tile + 1);

    for (int keys = warp * 16; keys < kKeysPerTile; keys += warps * 16) {
      float low, high;
      key_norms<T, D>(keys_smem + keys * pitch(D), lane, low, high);
      if (on_diagonal(lane)) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = keys + group + 8 * i;
          const float norm = i ? high : low;
          terms[2 * key] = -force * norm;
          // Keys beyond the last token get probability 0 from here; the loops below need no mask.
          terms[2 * key + 1] = tile * kKeysPerTile + key < tokens ? -call.beta * force * norm : -INFINITY;
        }
      }
    }

    float s[kColumns][4];
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] = s[n + 1][i] = 0.0f;
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        std::uint32_t k[4];
        load_matrix(k, keys_smem + (n * 8 + key_row(lane)) * pitch(D) + 2 * (16 * d + key_column(lane)));
        multiply<T>(s[n], q[d], k[0], k[1]);
        multiply<T>(s[n + 1], q[d], k[2], k[3]);
      }
    }
    barrier(1 + half, half_threads);  // the terms are complete

    float new_max[2] = {state.row_max[0], state.row_max[1]};
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const float k_force = terms[2 * (n * 8 + pair + column)];
        const float k_bias = terms[2 * (n * 8 + pair + column) + 1];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float& score = s[n][2 * row + column];
          const float product = score;
          score = slope * product + k_bias;
          if constexpr (Attract) {
            const float exponent = minimum(2.0f * force * product + (k_force + q_force[row]), 0.0f);
            score += attraction * (n % 8 < polynomial_eighths ? exp2_polynomial(exponent) : exp2_fast(exponent));
          }
          // With the attraction in the maximum, the largest probability is exactly 1 and rounding it to 16 bits costs nothing.
          new_max[row] = maximum(new_max[row], score);
        }
      }
    }
    if (wanted >= 0 && wanted < kRowsPerWarp && wanted % 8 == group) {
      const int row = wanted / 8;
      float* logits = call.row_logits + static_cast<std::int64_t>(block_row()) * tokens;
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int column = 0; column < 2; ++column) {
          const int key = tile * kKeysPerTile + n * 8 + pair + column;
          if (key < tokens) logits[key] = (row ? s[n][2 + column] : s[n][column]) + call.beta * (row ? q_force[1] : q_force[0]);
        }
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      new_max[row] = maximum(new_max[row], shuffle_xor(new_max[row], 1));
      new_max[row] = maximum(new_max[row], shuffle_xor(new_max[row], 2));
      state.rescale(row, new_max[row]);
    }
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[n][i] = exp2_fast(s[n][i] - new_max[i / 2]);
        state.row_sum[i / 2] += s[n][i];
      }
    }
#pragma unroll
    for (int n = 0; n < kColumns; n += 2) {
      const std::uint32_t p[4] = {pack<T>(s[n][0], s[n][1]), pack<T>(s[n][2], s[n][3]), pack<T>(s[n + 1][0], s[n + 1][1]),
                                  pack<T>(s[n + 1][2], s[n + 1][3])};
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        std::uint32_t v[4];
        load_matrix_transposed(v, values_smem + (n * 8 + value_row(lane)) * pitch(D) + 2 * (16 * d + value_column(lane)));
        multiply<T>(state.acc[2 * d], p, v[0], v[1]);
        multiply<T>(state.acc[2 * d + 1], p, v[2], v[3]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    state.row_sum[row] += shuffle_xor(state.row_sum[row], 1);
    state.row_sum[row] += shuffle_xor(state.row_sum[row], 2);
  }

  float* merge = reinterpret_cast<float*>(smem);
  barrier(0, thread_count());  // both halves have left their tiles, whose memory the merge reuses
  if (half == 1) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) merge[merge_slot(thread, 4 * n + i, half_threads)] = state.acc[n][i];
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      merge[merge_slot(thread, D / 2 + 2 * row, half_threads)] = state.row_max[row];
      merge[merge_slot(thread, D / 2 + 2 * row + 1, half_threads)] = state.row_sum[row];
    }
  }
  barrier(0, thread_count());  // half 1 has written
  if (half == 1) return;

#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float other_max = merge[merge_slot(thread, D / 2 + 2 * row, half_threads)];  // -infinity if half 1 had no tiles
    const float other_sum = merge[merge_slot(thread, D / 2 + 2 * row + 1, half_threads)];
    const float both_max = maximum(state.row_max[row], other_max);
    state.rescale(row, both_max);
    const float factor = exp2_fast(other_max - both_max);
    const float sum = state.row_sum[row] + factor * other_sum;
    const int token = first_row + group + 8 * row;
    if (token >= tokens) continue;
    const float inverse = 1.0f / sum;
    unsigned char* out_gmem = const_cast<unsigned char*>(element(call.out, call.out_strides, batch, head, token, 0));
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float low = state.acc[n][2 * row] + factor * merge[merge_slot(thread, 4 * n + 2 * row, half_threads)];
      const float high = state.acc[n][2 * row + 1] + factor * merge[merge_slot(thread, 4 * n + 2 * row + 1, half_threads)];
      *reinterpret_cast<std::uint32_t*>(out_gmem + 2 * (8 * n + pair)) = pack<T>(low * inverse, high * inverse);
    }
    if (pair == 0) {
      const float lse = (both_max + log2_fast(sum)) * kLn2 - call.beta * call.delta * q_norm[row];
      call.lse[static_cast<std::int64_t>(block_row()) * tokens + token] = lse;
    }
  }
}

// One thread per search token: the template row's probabilities, mean over the heads in their order.
ESAT_DEVICE void fda_scores_thread(const Forward& call) {
  const int column = block_column() * thread_count() + thread_index();
  const int columns = call.tokens - call.num_template;
  if (column >= columns) return;
  const std::int64_t batch = block_row();
  float total = 0.0f;
  for (int head = 0; head < call.heads; ++head) {
    const std::int64_t row = (batch * call.heads + head) * call.tokens;
    total += exp2_fast(call.row_logits[row + call.num_template + column] - call.lse[row + call.template_token] * kLog2E);
  }
  call.scores[batch * columns + column] = total / static_cast<float>(call.heads);
}

}  // namespace esat::sm80

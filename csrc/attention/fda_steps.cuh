// Kernels before and behind the forward kernels. Include sm80_primitives.cuh before it (or, for the host, an emulation of the same
// functions).
#pragma once

#include <cstdint>

#include "attention/fda_softmax.cuh"

namespace esat::sm80 {

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

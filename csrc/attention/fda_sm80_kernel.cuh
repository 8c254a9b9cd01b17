// The body of the attention kernel for sm_80 and newer: mma.sync, cp.async. The softmax of a warp is in fda_softmax.cuh.
#pragma once

#include <cstdint>

#include "attention/fda_softmax.cuh"

namespace esat::sm80 {

// What a thread copies of every tile: 16 bytes of some rows, whose numbers rise by a constant. 8 lanes share a row, 4 where it has 64
// bytes.
template <int D, int Warps>
struct Copies {
  static constexpr int kLanes = D / 8;
  static constexpr int kRows = threads_per_half(Warps) / kLanes;  // between a thread's rows
  const unsigned char* key;                                       // columns of this thread in row 0
  const unsigned char* value;
  Shared shared;  // its first row and columns in a tile
  int key_bytes, value_bytes, row, tokens;

  ESAT_DEVICE Copies(const Forward& call, int batch, int head, int thread, Shared first_tile)
      : key(opaque(slice(call.key, call.key_strides, batch, head) + thread % kLanes * 16)),
        value(opaque(slice(call.value, call.value_strides, batch, head) + thread % kLanes * 16)),
        shared(first_tile + thread / kLanes * pitch(D) + thread % kLanes * 16),
        key_bytes(opaque(2 * static_cast<int>(call.key_strides.token))),
        value_bytes(opaque(2 * static_cast<int>(call.value_strides.token))),
        row(thread / kLanes),
        tokens(call.tokens) {}

  // Tile `tile` of keys and values into the stage at `offset`. Rows beyond the last token are zeros: their probability is 0, and 0 times
  // what is not finite would be a NaN.
  ESAT_DEVICE void load(int tile, int offset) const {
#pragma unroll
    for (int first = 0; first < kKeysPerTile; first += kRows) {
      if (first + kRows > kKeysPerTile && first + row >= kKeysPerTile) break;
      const int token = tile * kKeysPerTile + row + first;
      const Shared to = shared + offset + first * pitch(D);
      copy_async(to, key + std::int64_t{token} * key_bytes, token < tokens);
      copy_async(to + tile_bytes(D), value + std::int64_t{token} * value_bytes, token < tokens);
    }
    copy_commit();
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

  const int first = first_tile(tokens, half), last = last_tile(tokens, half);
  const Shared shared = shared_address(smem);
  const Copies<D, Warps> copies(call, batch, head, thread, shared + key_tile(D, half, 0));
  if (first < last) copies.load(first, 0);

  for (int key = first * kKeysPerTile + thread; key < last * kKeysPerTile; key += kHalfThreads) {
    write_key_terms(call, batch, head, key, reinterpret_cast<float*>(smem + key_terms(D, key)));
  }

  std::uint32_t q[kSteps][4];  // queries stay in registers
  load_queries<D>(call, batch, head, first_row, q);
  Softmax<D, Attract> rows(call, q, first_row);

  Shared terms = shared + key_terms(D, first * kKeysPerTile + pair);
  const Shared keys_lane = shared + key_tile(D, half, 0) + key_row(lane) * pitch(D) + 2 * key_column(lane);
  const Shared values_lane = shared + value_tile(D, half, 0) + value_row(lane) * pitch(D) + 2 * value_column(lane);
  int stage = 0;  // its offset in bytes

  for (int tile = first; tile < last; ++tile, terms += kKeysPerTile * kTermBytes) {
    copy_wait();
    barrier(1 + half, kHalfThreads);  // the tile (and at first the terms) is complete, and nobody reads the other stage any more
    const int next = key_tile(D, 0, 1) - stage;
    if (tile + 1 < last) copies.load(tile + 1, next);

    std::uint32_t p[kColumns / 2][4];
    bool good = false;
    if (!rows.exact) {
      float s[kColumns][4];
      query_key_product<D>(s, q, keys_lane + stage, rows.start);
      rows.logits(s, terms, tile);
      probabilities(p, s);
      good = rows.add(p);
    }
    if (!good) {
      float s[kColumns][4];
      const float zero[4] = {};
      query_key_product<D>(s, q, keys_lane + stage, zero);
      rows.exact_logits(s, terms, tile, tile == first);
      probabilities(p, s);
      add_sums(rows.sum, p);
    }
#pragma unroll
    for (int n = 0; n < kColumns / 2; ++n) {
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        std::uint32_t v[4];
        load_matrix_transposed(v, values_lane + stage + n * 16 * pitch(D) + 32 * d);
        multiply(rows.acc[2 * d], p[n], v[0], v[1], rows.acc[2 * d]);
        multiply(rows.acc[2 * d + 1], p[n], v[2], v[3], rows.acc[2 * d + 1]);
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
      for (int i = 0; i < 4; ++i) merge[merge_slot(thread, 4 * n + i, kHalfThreads)] = rows.acc[n][i];
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      merge[merge_slot(thread, D / 2 + 2 * row, kHalfThreads)] = first < last ? rows.reference[row] : -INFINITY;
      merge[merge_slot(thread, D / 2 + 2 * row + 1, kHalfThreads)] = rows.sum[2 * row];
    }
  }
  barrier(0, kHalves * kHalfThreads);  // half 1 has written
  if (half == 1) return;

  unsigned char* out = const_cast<unsigned char*>(slice(call.out, call.out_strides, batch, head));
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float other = merge[merge_slot(thread, D / 2 + 2 * row, kHalfThreads)];
    const float reference = maximum(rows.reference[row], other);
    rows.scale(row, exp2_fast(rows.reference[row] - reference));
    const float factor = exp2_fast(other - reference);
    const float inverse = 1.0f / (rows.sum[2 * row] + factor * merge[merge_slot(thread, D / 2 + 2 * row + 1, kHalfThreads)]);
    const int token = first_row + group + 8 * row;
    if (token >= tokens) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float low = rows.acc[n][2 * row] + factor * merge[merge_slot(thread, 4 * n + 2 * row, kHalfThreads)];
      const float high = rows.acc[n][2 * row + 1] + factor * merge[merge_slot(thread, 4 * n + 2 * row + 1, kHalfThreads)];
      *reinterpret_cast<std::uint32_t*>(out + 2 * (token * call.out_strides.token + 8 * n + pair)) = pack(low * inverse, high * inverse);
    }
  }
}

}  // namespace esat::sm80

// The body of the attention kernel for Hopper. Include sm90_primitives.cuh before it (or, for the host, an emulation of the same
// functions). README.md says which wait guards what.
#pragma once

#include <cstdint>

#include "attention/fda_sm90_layout.h"
#include "attention/fda_softmax.cuh"

namespace esat::sm90 {

using cuda::Forward;

// Keys and values of a tile into the stage of its index in this block.
ESAT_DEVICE void load_stage(const TensorMap& keys, const TensorMap& values, Shared shared, Shared full, int index, int tile, int batch,
                            int head) {
  const int stage = stage_of(index);
  arrive_with_bytes(full + 8 * stage, 2 * kTileBytes);
  load_box(shared + key_tile(stage), keys, full + 8 * stage, head, tile * kKeysPerTile, batch);
  load_box(shared + value_tile(stage), values, full + 8 * stage, head, tile * kKeysPerTile, batch);
}

// The products of one warp with a tile of keys by mma.sync, for a tile that this warp alone does again. `keys`: the tile.
ESAT_DEVICE void query_key_product_of_warp(float (&s)[8][4], const std::uint32_t (&q)[4][4], Shared keys) {
  const int lane = sm80::thread_index() % kWarp;
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = s[n + 1][i] = 0.0f;
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      std::uint32_t k[4];
      sm80::load_matrix(k, keys + swizzled(8 * n + sm80::key_row(lane), 2 * d + sm80::key_column(lane) / 8));
      sm80::multiply(s[n], q[d], k[0], k[1], s[n]);
      sm80::multiply(s[n + 1], q[d], k[2], k[3], s[n + 1]);
    }
  }
}

// One block of a cluster of two: queries [64 Groups * cluster, ...) of slice block_row = batch * heads + head, and its part of the keys.
template <bool Attract, int Groups>
ESAT_DEVICE void fda_forward_block(const Forward& call, const TensorMap& keys, const TensorMap& values) {
  constexpr int kProducer = Groups * kGroupThreads;  // the first thread of the last warpgroup makes the copies
  unsigned char* smem = sm80::shared_memory();
  const Shared shared = sm80::shared_address(smem);
  const Shared full = shared + full_barrier(Groups, 0), empty = shared + empty_barrier(Groups, 0), sent = shared + sent_barrier(Groups);
  const int thread = sm80::thread_index(), lane = thread % kWarp;
  const int rank = cluster_rank();
  const int batch = sm80::block_row() / call.heads, head = sm80::block_row() % call.heads;
  const int tokens = call.tokens;
  const int first_block_row = sm80::block_column() / kBlocks * Groups * kGroupRows;
  const int groups = sm80::smaller(Groups, ceil_div(tokens - first_block_row, kGroupRows));  // those that have queries
  const int first = first_tile(tokens, rank), last = last_tile(tokens, rank);

  if (thread >= kProducer) {
    fewer_registers<kProducerRegisters>();
    if (thread == kProducer) {
      for (int stage = 0; stage < kStages; ++stage) {
        init_barrier(full + 8 * stage, 1);
        init_barrier(empty + 8 * stage, groups * kGroupThreads / kWarp);
      }
      init_barrier(sent, 1);
      publish_barriers();
      arrive_with_bytes(sent, kProducer * (kSentColumns + 1) * 16);
      for (int index = 0; index < sm80::smaller(kStages, last - first); ++index) {
        load_stage(keys, values, shared, full, index, first + index, batch, head);
      }
    } else if (thread >= kProducer + kWarp) {
#pragma unroll 4
      for (int key = thread - kProducer - kWarp; key < (last - first) * kKeysPerTile; key += kGroupThreads - kWarp) {
        sm80::write_key_terms(call, batch, head, first * kKeysPerTile + key, reinterpret_cast<float*>(smem + key_terms(Groups, key)));
      }
    }
    warp_sync();
    cluster_arrive();
    sm80::barrier(0, block_threads(Groups));  // barriers and terms are there
    if (thread == kProducer) {
      for (int index = kStages; index < last - first; ++index) {
        wait(empty + 8 * stage_of(index), parity_of(index - kStages));  // every warp has left the tile before
        load_stage(keys, values, shared, full, index, first + index, batch, head);
      }
    }
    warp_sync();
    cluster_wait();
    return;
  }

  more_registers<consumer_registers(Groups)>();
  const int group = thread / kGroupThreads;
  const int first_row = first_block_row + thread / kWarp * kRowsPerWarp;
  const bool any = first_row < tokens;  // a warp without queries multiplies with the others, but makes no probabilities
  std::uint32_t q[4][4];
  sm80::load_queries<kHeadDim>(call, batch, head, first_row, q);
  sm80::Softmax<kHeadDim, Attract> rows(call, q, first_row);
  const Shared terms = shared + key_terms(Groups, sm80::fragment_pair(lane));
  float s[8][4];
  std::uint32_t p[4][4] = {};
  bool shifted = false;  // whether this warp has references that are not 0

  const auto multiply_keys = [&](int stage) {
    const std::uint64_t tile = descriptor(shared + key_tile(stage));
#pragma unroll
    for (int d = 0; d < 4; ++d) multiply<false>(s, q[d], tile + (d * kKeyStep >> 4), d > 0);
    product_commit();
  };
  const auto multiply_values = [&](int stage, bool add) {
    const std::uint64_t tile = descriptor(shared + value_tile(stage));
#pragma unroll
    for (int n = 0; n < 4; ++n) multiply<true>(rows.acc, p[n], tile + (n * kValueStep >> 4), add || n > 0);
    product_commit();
  };
  const auto pin_values = [&] {
    pin(rows.acc);
    pin(p);
  };

  cluster_arrive();
  sm80::barrier(0, block_threads(Groups));  // barriers and terms are there
  if (group < groups && first < last) {
    int before = 0;  // the stage of the tile before. In the first round p is 0 and the product with it is dropped: 0 * infinity is not 0.
    for (int tile = first; tile < last; ++tile) {
      const int index = tile - first, stage = stage_of(index);
      const Shared tile_terms = terms + index * kKeysPerTile * kTermBytes;
      wait(full + 8 * stage, parity_of(index));  // the tile is there
      pin(s);
      pin_values();
      product_fence();
      multiply_keys(stage);
      multiply_values(before, index > 1);
      product_wait<1>();  // the products with the keys are there
      pin(s);
      const bool usual = any && !rows.exact;
      if (usual) {
        if (shifted) {
#pragma unroll
          for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) s[n][i] += rows.start[i];
          }
        }
        rows.logits(s, tile_terms, tile);
      }
      product_wait<0>();  // the values of the tile before are multiplied: p is free, acc is there
      pin_values();
      if (index > 0 && lane == 0) arrive(empty + 8 * before);  // this warp has left the tile before
      bool good = !any;
      if (usual) {
        sm80::probabilities(p, s);
        good = rows.add(p);
      }
      if (!good) {
        query_key_product_of_warp(s, q, shared + key_tile(stage));
        finish_reads();  // as other than a product the tile is read here alone
        rows.exact_logits(s, tile_terms, tile, index == 0);
        sm80::probabilities(p, s);
        sm80::add_sums(rows.sum, p);
        shifted = true;
      }
      before = stage;
    }
    pin_values();
    product_fence();
    multiply_values(before, last - first > 1);
    product_wait<0>();
    pin_values();
  }

  // Half of the head dimensions goes to the other block, and the softmax of all rows.
  cluster_wait();  // the other block runs and has made its barriers
  float x[4];
#pragma unroll
  for (int n = 0; n < kSentColumns; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = rank == 0 ? rows.acc[n + kSentColumns][i] : rows.acc[n][i];
    store_to_block(shared + exchange(Groups, thread, n), 1 - rank, x, sent);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if (first == last) rows.reference[row] = -INFINITY;
    x[row] = rows.reference[row];
    x[2 + row] = rows.sum[2 * row];
  }
  store_to_block(shared + exchange(Groups, thread, kSentColumns), 1 - rank, x, sent);
  wait_for_blocks(sent, 0);  // all of the other block's is there: then nothing comes any more, and this block may end

  float own[2], other[2];
  sm80::load_floats(x, shared + exchange(Groups, thread, kSentColumns));
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float reference = sm80::maximum(rows.reference[row], x[row]);
    own[row] = sm80::exp2_fast(rows.reference[row] - reference);
    other[row] = sm80::exp2_fast(x[row] - reference);
    const float inverse = 1.0f / (own[row] * rows.sum[2 * row] + other[row] * x[2 + row]);
    own[row] *= inverse;
    other[row] *= inverse;
  }
  unsigned char* out = const_cast<unsigned char*>(sm80::slice(call.out, call.out_strides, batch, head));
  const int token = first_row + sm80::fragment_group(lane), column = rank * kHeadDim / kBlocks + sm80::fragment_pair(lane);
#pragma unroll
  for (int n = 0; n < kSentColumns; ++n) {
    sm80::load_floats(x, shared + exchange(Groups, thread, n));
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float sum[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float mine = rank == 0 ? rows.acc[n][2 * row + i] : rows.acc[n + kSentColumns][2 * row + i];
        sum[i] = own[row] * mine + other[row] * x[2 * row + i];
      }
      if (token + 8 * row < tokens) {
        *reinterpret_cast<std::uint32_t*>(out + 2 * ((token + 8 * row) * call.out_strides.token + column + 8 * n)) =
            sm80::pack(sum[0], sum[1]);
      }
    }
  }
}

}  // namespace esat::sm90

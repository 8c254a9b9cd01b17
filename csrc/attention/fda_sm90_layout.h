// Index arithmetic of the Hopper attention kernel, callable from the host: blocks, shared memory, descriptors of wgmma's operands.
//
// A cluster of two blocks holds the 64 W queries of W warpgroups of one head; block 0 of it streams the first part of the key tiles, block
// 1 the rest (first_tile, last_tile). Each then sends half of its head dimensions to the other and finishes the half that it receives.
#pragma once

#include <cstdint>

#include "attention/fda_sm80_layout.h"

namespace esat::sm90 {

using sm80::ceil_div;
using sm80::first_tile;
using sm80::kKeysPerTile;
using sm80::kMaxTokens;
using sm80::kRowsPerWarp;
using sm80::kTermBytes;
using sm80::kWarp;
using sm80::last_tile;

inline constexpr int kHeadDim = 64;
inline constexpr int kBlocks = sm80::kHalves;  // of a cluster
inline constexpr int kGroupThreads = 128;      // of a warpgroup
inline constexpr int kGroupRows = 64;          // m of wgmma
inline constexpr int kStages = 4;              // tiles of keys and values in flight
inline constexpr int kMinGroups = 2, kMaxGroups = 3;

// The last warpgroup copies; the others multiply.
ESAT_HOST_DEVICE constexpr int block_threads(int groups) { return (groups + 1) * kGroupThreads; }

// Registers of a thread after the producers have given theirs away: of a multiprocessor's 65536, in steps of 8.
inline constexpr int kProducerRegisters = 32;
ESAT_HOST_DEVICE constexpr int consumer_registers(int groups) {
  const int others = (65536 / block_threads(groups) / 8 * 8 * (groups + 1) - kProducerRegisters) / groups / 8 * 8;
  return others < 240 ? others : 240;
}

// Shared memory in bytes, from a multiple of 1024: what repeats every 1024 bytes in a tile of 128-byte rows is the swizzle.
inline constexpr int kRowBytes = 2 * kHeadDim;
inline constexpr int kTileBytes = kKeysPerTile * kRowBytes;
inline constexpr int kSwizzleRows = 8;
ESAT_HOST_DEVICE constexpr int key_tile(int stage) { return stage * 2 * kTileBytes; }
ESAT_HOST_DEVICE constexpr int value_tile(int stage) { return key_tile(stage) + kTileBytes; }
// Where the 16 bytes `chunk` of a row lie from the tile's start.
ESAT_HOST_DEVICE constexpr int swizzled(int row, int chunk) { return row * kRowBytes + ((chunk ^ row % kSwizzleRows) << 4); }

// What the other block sends: for each thread four floats of each of its columns' tiles of eight, then references and sums.
inline constexpr int kSentColumns = kHeadDim / kBlocks / 8;
ESAT_HOST_DEVICE constexpr int exchange(int groups, int thread, int index) {
  return key_tile(kStages) + (index * groups * kGroupThreads + thread) * 16;
}
// Barriers of 8 bytes: a stage's tiles have arrived; nobody reads them any more; what the other block sends is there.
ESAT_HOST_DEVICE constexpr int full_barrier(int groups, int stage) { return exchange(groups, 0, kSentColumns + 1) + 8 * stage; }
ESAT_HOST_DEVICE constexpr int empty_barrier(int groups, int stage) { return full_barrier(groups, kStages) + 8 * stage; }
ESAT_HOST_DEVICE constexpr int sent_barrier(int groups) { return empty_barrier(groups, kStages); }
// The terms of this block's keys.
ESAT_HOST_DEVICE constexpr int key_terms(int groups, int key) { return sent_barrier(groups) + 16 + key * kTermBytes; }
ESAT_HOST_DEVICE constexpr int shared_bytes(int groups, int tokens) { return key_terms(groups, first_tile(tokens, 1) * kKeysPerTile); }
static_assert(shared_bytes(kMaxGroups, kMaxTokens) <= 227 * 1024);

// Whether the `use`-th use of a stage, from 0, waits for an odd or an even phase of its barrier.
ESAT_HOST_DEVICE constexpr int stage_of(int index) { return index % kStages; }
ESAT_HOST_DEVICE constexpr int parity_of(int index) { return index / kStages & 1; }

// Descriptor of a right operand with rows of 128 swizzled bytes (PTX ISA, "Matrix descriptor"): address, leading and stride byte offsets in
// units of 16 bytes, and the swizzle. Keys lie along their head dimension (K-major), values across it (MN-major), and either way the next
// eight rows lie 1024 bytes further; one atom is as wide as the operand, so the leading offset is not used.
ESAT_HOST_DEVICE constexpr std::uint64_t descriptor(std::uint32_t address) {
  return (address & 0x3ffffu) >> 4 | std::uint64_t{1} << 16 | std::uint64_t{kSwizzleRows * kRowBytes >> 4} << 32 | std::uint64_t{1} << 62;
}
// From one step of 16 of the sum to the next: 32 bytes along a row of keys, 16 rows of values.
inline constexpr int kKeyStep = 16 * 2, kValueStep = 16 * kRowBytes;

// Warpgroups of a block: those with which the last cluster is done first. A tile takes each of a block's warpgroups 52 tens of cycles of
// the special functions, and 80 at least; of equals the block with more, which reads the keys less often. 12 heads on 132 multiprocessors:
// 3 at N = 720 (48 clusters, where 72 of two groups would need two rounds of 66), else 2.
ESAT_HOST_DEVICE constexpr int block_groups(int tokens, int slices, int multiprocessors) {
  int best = 0;
  std::int64_t best_cost = 0;
  for (int groups = kMaxGroups; groups >= kMinGroups; --groups) {
    const std::int64_t clusters = std::int64_t{ceil_div(tokens, groups * kGroupRows)} * slices;
    const int pairs = multiprocessors / kBlocks;
    const std::int64_t cost = (clusters + pairs - 1) / pairs * (52 * groups > 80 ? 52 * groups : 80);
    if (best == 0 || cost < best_cost) {
      best = groups;
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace esat::sm90

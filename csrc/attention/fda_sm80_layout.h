// Index arithmetic of the CUDA attention kernel, callable from the host: tile heights, split of the keys, shared memory, fragment layouts.
//
// A block has two halves of `warps` warps each and holds 16 warps queries of one head. Warp w of either half owns the queries [16 w, 16 w +
// 16); half 0 streams the first part of the key tiles, half 1 the rest, and half 0 merges the two softmaxes in shared memory.
#pragma once

#include <cstdint>
#include <initializer_list>

#if defined(__CUDACC__)
#define ESAT_HOST_DEVICE __host__ __device__
#else
#define ESAT_HOST_DEVICE
#endif

namespace esat::sm80 {

inline constexpr int kWarp = 32;
inline constexpr int kRowsPerWarp = 16;  // m of mma.m16n8k16
inline constexpr int kKeysPerTile = 64;
inline constexpr int kStages = 2;  // tiles of keys and values in flight per half
inline constexpr int kHalves = 2;
inline constexpr int kMinWarps = 2, kMaxWarps = 5;  // of a half
inline constexpr int kMaxTokens = 2048;             // the terms of all keys lie in shared memory

ESAT_HOST_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

ESAT_HOST_DEVICE constexpr int threads_per_half(int warps) { return warps * kWarp; }

// The tiles of keys [first, last) of a half; half 0 has the odd one, and half 1 may have none.
ESAT_HOST_DEVICE constexpr int first_tile(int tokens, int half) {
  return half == 0 ? 0 : ceil_div(ceil_div(tokens, kKeysPerTile), kHalves);
}
ESAT_HOST_DEVICE constexpr int last_tile(int tokens, int half) {
  return half == 0 ? first_tile(tokens, 1) : ceil_div(tokens, kKeysPerTile);
}

// Shared memory in bytes. A row of 16-bit elements is padded by 16 bytes, so that the eight rows of an ldmatrix lie in different banks.
ESAT_HOST_DEVICE constexpr int pitch(int head_dim) { return 2 * head_dim + 16; }
ESAT_HOST_DEVICE constexpr int tile_bytes(int head_dim) { return kKeysPerTile * pitch(head_dim); }
ESAT_HOST_DEVICE constexpr int key_tile(int head_dim, int half, int stage) { return (half * kStages + stage) * 2 * tile_bytes(head_dim); }
ESAT_HOST_DEVICE constexpr int value_tile(int head_dim, int half, int stage) {
  return key_tile(head_dim, half, stage) + tile_bytes(head_dim);
}
// Per key two floats: the exponent's part of the attraction, and the bias of the logit.
inline constexpr int kTermBytes = 2 * static_cast<int>(sizeof(float));
ESAT_HOST_DEVICE constexpr int key_terms(int head_dim, int key) { return key_tile(head_dim, kHalves, 0) + key * kTermBytes; }
ESAT_HOST_DEVICE constexpr int shared_bytes(int head_dim, int tokens) {
  return key_terms(head_dim, ceil_div(tokens, kKeysPerTile) * kKeysPerTile);
}
static_assert(shared_bytes(64, kMaxTokens) <= 99 * 1024, "what a block of sm_86, sm_89 and sm_120 can have");

// Blocks that a multiprocessor is promised room for, by registers (the kernel's launch bounds) and shared memory.
inline constexpr int kSharedBytes = 163 * 1024, kReservedBytes = 1024;  // of a multiprocessor of sm_80; the system's in each block
ESAT_HOST_DEVICE constexpr int blocks_by_registers(int warps) { return warps <= 3 ? 2 : 1; }
ESAT_HOST_DEVICE constexpr int resident_blocks(int head_dim, int tokens, int warps) {
  return 2 * (shared_bytes(head_dim, tokens) + kReservedBytes) <= kSharedBytes + kReservedBytes ? blocks_by_registers(warps) : 1;
}

// Warps of a half, a sixteenth of the block's rows: those with which the busiest multiprocessor is done first, the taller block of equals,
// because it reads the keys less often. A step of one tile in each half takes, in tens of cycles, what holds a unit longest
// (`python -m benchmarks.sass`): 17 for each warp (shared memory), 51 for each warp of the fullest scheduler (special functions), 50 for
// each block (copies from L2, 64 bytes a cycle), and 80 at least (latencies). 12 heads: N = 720, 548, 427, 343 give 80, 64, 48, 48 rows on
// 108 multiprocessors and 80, 64, 48, 32 on 132.
ESAT_HOST_DEVICE constexpr int step_cost(int blocks, int warps) {
  const int all = blocks * kHalves * warps;
  int cost = 80;
  for (const int other : {17 * all, 51 * ceil_div(all, 4), 50 * blocks}) cost = other > cost ? other : cost;
  return cost;
}
ESAT_HOST_DEVICE constexpr int tile_warps(int tokens, int slices, int multiprocessors, int head_dim) {
  int best = 0;
  std::int64_t best_cost = 0;
  for (int warps = kMaxWarps; warps >= kMinWarps; --warps) {
    const std::int64_t blocks = (std::int64_t{ceil_div(tokens, warps * kRowsPerWarp)} * slices + multiprocessors - 1) / multiprocessors;
    const int resident = resident_blocks(head_dim, tokens, warps);
    const int last = static_cast<int>(blocks % resident);
    const std::int64_t cost = blocks / resident * step_cost(resident, warps) + (last == 0 ? 0 : step_cost(last, warps));
    if (best == 0 || cost < best_cost) {
      best = warps;
      best_cost = cost;
    }
  }
  return best;
}

// The merge reuses the tiles: half 1 leaves each thread's accumulators, and the references and sums of its two rows, thread by thread.
ESAT_HOST_DEVICE constexpr int merge_floats(int head_dim) { return head_dim / 8 * 4 + 4; }
ESAT_HOST_DEVICE constexpr int merge_slot(int thread, int index, int threads) { return index * threads + thread; }

// Fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"); lane = 4 g + t.
ESAT_HOST_DEVICE constexpr int fragment_group(int lane) { return lane >> 2; }
ESAT_HOST_DEVICE constexpr int fragment_pair(int lane) { return (lane & 3) * 2; }
// Accumulator c[4] of a 16 x 8 tile.
ESAT_HOST_DEVICE constexpr int accumulator_row(int lane, int index) { return fragment_group(lane) + (index >> 1) * 8; }
ESAT_HOST_DEVICE constexpr int accumulator_column(int lane, int index) { return fragment_pair(lane) + (index & 1); }
// Left operand a[4], two elements a register: rows g and g + 8, columns from here on.
ESAT_HOST_DEVICE constexpr int left_row(int lane, int index) { return fragment_group(lane) + (index & 1) * 8; }
ESAT_HOST_DEVICE constexpr int left_column(int lane, int index) { return fragment_pair(lane) + (index >> 1) * 8; }

// ldmatrix.x4: the row of a 16 x 16 block, and its half of 8 columns, whose address a lane gives.
// Keys, not transposed: registers 0, 1 are the right operand of keys 0-7, and 2, 3 of keys 8-15.
ESAT_HOST_DEVICE constexpr int key_row(int lane) { return (lane & 7) + (lane >> 4) * 8; }
ESAT_HOST_DEVICE constexpr int key_column(int lane) { return (lane >> 3 & 1) * 8; }
// Values, transposed: registers 0, 1 are the right operand of dimensions 0-7, and 2, 3 of dimensions 8-15.
ESAT_HOST_DEVICE constexpr int value_row(int lane) { return lane & 15; }
ESAT_HOST_DEVICE constexpr int value_column(int lane) { return (lane >> 4) * 8; }

// In the product of 8 rows with themselves, the lane and the accumulator that hold row g's squared norm.
ESAT_HOST_DEVICE constexpr int diagonal_lane(int g) { return 4 * g + g / 2; }
ESAT_HOST_DEVICE constexpr bool on_diagonal(int lane) { return (lane & 3) == fragment_group(lane) / 2; }
ESAT_HOST_DEVICE constexpr int diagonal_index(int lane) { return fragment_group(lane) & 1; }

}  // namespace esat::sm80

// The index arithmetic of the CUDA attention kernel: block heights, split of the keys, shared memory and its banks, diagonal of the norms.

#include <set>
#include <vector>

#include "attention/fda_sm80_layout.h"
#include "check.h"

using namespace esat::sm80;

static void tile_heights() {
  // 12 heads; an A100 has 108 multiprocessors, an H200 132.
  CHECK_EQUAL(tile_warps(720, 12, 108, 64), 5);
  CHECK_EQUAL(tile_warps(548, 12, 108, 64), 4);
  CHECK_EQUAL(tile_warps(427, 12, 108, 64), 3);
  CHECK_EQUAL(tile_warps(343, 12, 108, 64), 3);
  CHECK_EQUAL(tile_warps(720, 12, 132, 64), 5);
  CHECK_EQUAL(tile_warps(548, 12, 132, 64), 4);
  CHECK_EQUAL(tile_warps(427, 12, 132, 64), 3);
  CHECK_EQUAL(tile_warps(343, 12, 132, 64), 2);
  // Many slices: two blocks of 12 warps in all keep a multiprocessor as busy as one of 10, with more rows.
  CHECK_EQUAL(tile_warps(720, 384, 132, 64), 3);
  for (const int head_dim : {32, 64}) {
    for (int tokens = 1; tokens < 800; tokens += 7) {
      for (const int slices : {1, 6, 12, 384}) {
        const int warps = tile_warps(tokens, slices, 132, head_dim);
        CHECK(warps >= kMinWarps && warps <= kMaxWarps);
      }
    }
  }
  CHECK_EQUAL(resident_blocks(64, 720, 3), 2);
  CHECK_EQUAL(resident_blocks(64, 720, 5), 1);
  CHECK_EQUAL(resident_blocks(64, 2048, 3), 1);  // the terms of so many keys
}

static void every_key_belongs_to_one_half() {
  for (int tokens = 1; tokens < 800; ++tokens) {
    CHECK_EQUAL(first_tile(tokens, 0), 0);
    CHECK_EQUAL(last_tile(tokens, 0), first_tile(tokens, 1));
    CHECK(last_tile(tokens, 0) > 0);
    CHECK(last_tile(tokens, 1) >= first_tile(tokens, 1));
    CHECK(last_tile(tokens, 1) * kKeysPerTile >= tokens && (last_tile(tokens, 1) - 1) * kKeysPerTile < tokens);
    const int difference = last_tile(tokens, 0) - (last_tile(tokens, 1) - first_tile(tokens, 1));
    CHECK(difference == 0 || difference == 1);
  }
}

static void shared_memory() {
  for (const int head_dim : {32, 64}) {
    CHECK(shared_bytes(head_dim, kMaxTokens) <= 99 * 1024);  // what a block can have on sm_86, sm_89 and sm_120
    std::set<int> starts;
    for (int half = 0; half < kHalves; ++half) {
      for (int stage = 0; stage < kStages; ++stage) {
        starts.insert(key_tile(head_dim, half, stage));
        starts.insert(value_tile(head_dim, half, stage));
      }
    }
    CHECK_EQUAL(static_cast<int>(starts.size()), 2 * kHalves * kStages);
    int previous = -tile_bytes(head_dim);
    for (const int start : starts) {
      CHECK_EQUAL(start - previous, tile_bytes(head_dim));  // neither gaps nor overlaps
      CHECK_EQUAL(start % 16, 0);
      previous = start;
    }
    CHECK_EQUAL(key_terms(head_dim, 0), previous + tile_bytes(head_dim));
    CHECK_EQUAL(key_terms(head_dim, 0) % 16, 0);
    CHECK_EQUAL(shared_bytes(head_dim, 65), key_terms(head_dim, 128));  // terms for whole tiles
    CHECK(merge_floats(head_dim) * threads_per_half(kMaxWarps) * 4 <= key_terms(head_dim, 0));
  }
}

// An ldmatrix reads eight rows of 16 bytes at a time: without conflicts they lie in different groups of four banks.
static void banks() {
  for (const int head_dim : {32, 64}) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::set<int> key_groups, value_groups;
      for (int lane = 8 * matrix; lane < 8 * matrix + 8; ++lane) {
        key_groups.insert((key_row(lane) * pitch(head_dim) + 2 * key_column(lane)) / 16 % 8);
        value_groups.insert((value_row(lane) * pitch(head_dim) + 2 * value_column(lane)) / 16 % 8);
      }
      CHECK_EQUAL(static_cast<int>(key_groups.size()), 8);
      CHECK_EQUAL(static_cast<int>(value_groups.size()), 8);
    }
  }
}

static void fragments() {
  std::set<std::pair<int, int>> accumulators, left;
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      accumulators.insert({accumulator_row(lane, i), accumulator_column(lane, i)});
      left.insert({left_row(lane, i), left_column(lane, i)});
      // A packed pair of accumulators of two neighbouring tiles is a register of the left operand: P goes into the second product as it is.
      CHECK_EQUAL(left_row(lane, i), accumulator_row(lane, 2 * (i & 1)));
      CHECK_EQUAL(left_column(lane, i), accumulator_column(lane, 0) + 8 * (i >> 1));
    }
  }
  CHECK_EQUAL(static_cast<int>(accumulators.size()), 16 * 8);
  CHECK_EQUAL(static_cast<int>(left.size()), 16 * 8);
  for (int g = 0; g < 8; ++g) {
    const int lane = diagonal_lane(g);
    CHECK(on_diagonal(lane));
    CHECK_EQUAL(accumulator_row(lane, diagonal_index(lane)), g);
    CHECK_EQUAL(accumulator_column(lane, diagonal_index(lane)), g);
    CHECK_EQUAL(accumulator_row(lane, 2 + diagonal_index(lane)), g + 8);
  }
  int on = 0;
  for (int lane = 0; lane < kWarp; ++lane) on += on_diagonal(lane);
  CHECK_EQUAL(on, 8);
}

static void merge_slots() {
  for (int warps = kMinWarps; warps <= kMaxWarps; ++warps) {
    const int threads = threads_per_half(warps);
    std::set<int> slots;
    for (int thread = 0; thread < threads; ++thread) {
      for (int index = 0; index < merge_floats(64); ++index) slots.insert(merge_slot(thread, index, threads));
    }
    CHECK_EQUAL(static_cast<int>(slots.size()), threads * merge_floats(64));
    CHECK_EQUAL(*slots.rbegin(), threads * merge_floats(64) - 1);
  }
}

int main() {
  tile_heights();
  every_key_belongs_to_one_half();
  shared_memory();
  banks();
  fragments();
  merge_slots();
  return esat::testing::failures != 0;
}

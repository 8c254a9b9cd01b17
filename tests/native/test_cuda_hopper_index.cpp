// The index arithmetic of the Hopper attention kernel: blocks, registers, shared memory, swizzle, descriptors, phases.

#include <set>

#include "attention/fda_sm90_layout.h"
#include "check.h"

using namespace esat::sm90;

static void blocks() {
  // 12 heads on the 132 multiprocessors of an H100 or H200.
  CHECK_EQUAL(block_groups(720, 12, 132), 3);
  CHECK_EQUAL(block_groups(548, 12, 132), 2);
  CHECK_EQUAL(block_groups(427, 12, 132), 2);
  CHECK_EQUAL(block_groups(343, 12, 132), 2);
  for (int tokens = 1; tokens <= kMaxTokens; tokens += 13) {
    for (const int slices : {1, 6, 12, 384}) {
      const int groups = block_groups(tokens, slices, 132);
      CHECK(groups >= kMinGroups && groups <= kMaxGroups);
    }
  }
}

// What setmaxnreg takes: multiples of 8 up to 256, and no more in all than the block was given at its start.
static void registers() {
  for (int groups = kMinGroups; groups <= kMaxGroups; ++groups) {
    const int given = 65536 / block_threads(groups) / 8 * 8;
    CHECK_EQUAL(consumer_registers(groups) % 8, 0);
    CHECK_EQUAL(kProducerRegisters % 8, 0);
    CHECK(consumer_registers(groups) <= 256 && consumer_registers(groups) >= given && kProducerRegisters <= given);
    CHECK(groups * consumer_registers(groups) + kProducerRegisters <= (groups + 1) * given);
  }
}

static void shared_memory() {
  for (int groups = kMinGroups; groups <= kMaxGroups; ++groups) {
    int end = 0;
    for (int stage = 0; stage < kStages; ++stage) {
      CHECK_EQUAL(key_tile(stage), end);
      CHECK_EQUAL(value_tile(stage), end + kTileBytes);
      end += 2 * kTileBytes;
    }
    CHECK_EQUAL(kTileBytes % 1024, 0);
    std::set<int> slots;
    for (int thread = 0; thread < groups * kGroupThreads; ++thread) {
      for (int index = 0; index <= kSentColumns; ++index) slots.insert(exchange(groups, thread, index));
    }
    CHECK_EQUAL(static_cast<int>(slots.size()), groups * kGroupThreads * (kSentColumns + 1));
    CHECK_EQUAL(*slots.begin(), end);
    CHECK_EQUAL(*slots.rbegin() + 16, full_barrier(groups, 0));
    CHECK(groups * kGroupThreads * (kSentColumns + 1) * 16 < 1 << 20);  // bytes that a barrier counts
    CHECK_EQUAL(full_barrier(groups, 0) % 8, 0);
    CHECK_EQUAL(full_barrier(groups, kStages), empty_barrier(groups, 0));
    CHECK_EQUAL(empty_barrier(groups, kStages), sent_barrier(groups));
    CHECK(key_terms(groups, 0) >= sent_barrier(groups) + 8);
    CHECK_EQUAL(key_terms(groups, 0) % 16, 0);
    CHECK_EQUAL(shared_bytes(groups, 65), key_terms(groups, 64));  // one tile for each block
    CHECK(shared_bytes(groups, kMaxTokens) <= 227 * 1024);
  }
}

static void swizzle_and_descriptors() {
  std::set<int> chunks;
  for (int row = 0; row < kKeysPerTile; ++row) {
    for (int chunk = 0; chunk < 8; ++chunk) {
      const int plain = row * kRowBytes + chunk * 16;
      CHECK_EQUAL(swizzled(row, chunk), plain ^ (plain >> 7 & 7) << 4);  // address bits 4 to 6 with bits 7 to 9
      chunks.insert(swizzled(row, chunk));
    }
  }
  CHECK_EQUAL(static_cast<int>(chunks.size()), kKeysPerTile * 8);
  for (int first = 0; first < kKeysPerTile; first += 8) {  // the rows of an ldmatrix lie in different banks
    std::set<int> banks;
    for (int row = first; row < first + 8; ++row) banks.insert(swizzled(row, 3) / 16 % 8);
    CHECK_EQUAL(static_cast<int>(banks.size()), 8);
  }
  const std::uint64_t made = descriptor(0x12400);
  CHECK_EQUAL(made & 0x3fff, std::uint64_t{0x12400 >> 4});
  CHECK_EQUAL(made >> 32 & 0x3fff, std::uint64_t{1024 >> 4});
  CHECK_EQUAL(made >> 62, std::uint64_t{1});
  CHECK_EQUAL((descriptor(0x12400 + kValueStep) - made) << 4, std::uint64_t{kValueStep});  // a step is an addition
}

static void phases() {
  for (int index = 0; index < 3 * kStages; ++index) {
    CHECK_EQUAL(stage_of(index), index % kStages);
    CHECK_EQUAL(parity_of(index + kStages), 1 - parity_of(index));
  }
  CHECK_EQUAL(parity_of(0), 0);
}

int main() {
  blocks();
  registers();
  shared_memory();
  swizzle_and_descriptors();
  phases();
  return esat::testing::failures != 0;
}

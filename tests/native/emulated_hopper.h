// A cluster of thread blocks on the host: the functions of csrc/attention/sm90_primitives.cuh on top of emulated_gpu.h.
//
// What a GPU does on its own, it does here at a time drawn from the seed, as late as a wait allows: boxes and stores to another block
// arrive some time after they were asked for, and what lay in their place is gone at once; products of a warpgroup read shared memory and
// their left operand either when they are issued or when they are waited for, and their sums are NaN until then. A box may not be asked for
// where a thread's reads by ldmatrix are not fenced from the copy engine. Layouts follow the PTX ISA (matrix descriptors, swizzling by
// address bits), not the kernel's header.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "emulated_gpu.h"

namespace esat::sm90 {

using sm80::Shared;

namespace emulation {

using namespace sm80::emulation;

enum class Step { none, barrier_wait, block_wait, product_fence, product_wait, cluster_wait, publish, finish_reads };

// A step to leave out: number `index` of its kind that a thread from `first_thread` to before `last_thread` comes by.
struct StepOmission {
  Step step = Step::none;
  int index = 0, first_thread = 0, last_thread = 1 << 30;
};
inline StepOmission left_out;

struct MemoryBarrier {
  int count = 0, missing = 0;
  long bytes = 0, phase = 0;
  bool published = false;
};

// The sums of a product, while any of a chain of products with them runs.
struct Sums {
  float value[32][8][4];
  int running = 0;
};

struct Product {
  float (*d[32])[4];
  const std::uint32_t* a[32];
  std::uint32_t early_a[32][4];
  bool early_left, early_right, add;
  std::vector<float> right;  // [16][64], if it was read early
  std::uint64_t b;
  bool across;
};

struct WarpProducts {
  std::deque<Product> queue;
  std::deque<long> groups;  // products that had been issued when a group was committed
  std::map<void*, Sums> sums;
  long issued = 0, done = 0;
  bool fenced = false;
};

struct State {
  std::map<std::pair<Block*, Shared>, MemoryBarrier> barriers;
  std::map<std::pair<Block*, int>, WarpProducts> products;
  std::map<std::pair<Block*, std::pair<int, int>>, int> steps;  // that a thread has come by
  std::map<std::pair<Block*, int>, std::vector<Shared>> reads;  // of a thread by ldmatrix, not yet fenced
  std::vector<std::function<void()>> in_flight;
  int cluster_arrived = 0;
  long cluster_generation = 0;
  std::map<std::pair<Block*, int>, long> cluster_seen;
  std::mt19937 random;
};
inline State* state = nullptr;

inline bool skipped(Step step) {
  int& count = state->steps[{block, {block->current, static_cast<int>(step)}}];
  const int index = count++;
  return left_out.step == step && left_out.index == index && left_out.first_thread <= block->current &&
         block->current < left_out.last_thread;
}

inline MemoryBarrier& memory_barrier(Block* of, Shared address) {
  need(address % 8 == 0, "a barrier's address is not a multiple of 8");
  const auto found = state->barriers.find({of, address});
  need(found != state->barriers.end(), "no barrier was made here");
  return found->second;
}

inline void settle(MemoryBarrier& barrier) {
  need(barrier.missing >= 0, "more arrivals than a barrier counts");
  if (barrier.missing > 0 || barrier.bytes != 0) return;
  barrier.missing = barrier.count;
  ++barrier.phase;
}

inline void bytes_arrive(Block* of, Shared address, int bytes) {
  MemoryBarrier& barrier = memory_barrier(of, address);
  need(barrier.published, "the copy engine does not know of a barrier");
  barrier.bytes -= bytes;
  settle(barrier);
}

inline unsigned char* swizzled(Block* of, std::uint32_t address, std::size_t bytes) {
  return shared_at(of, address ^ (address >> 7 & 7) << 4, bytes);
}

// The right operand [16][64] that a descriptor says.
inline std::vector<float> right_operand(Block* of, std::uint64_t b, bool across) {
  need((b & ~0x40003fff3fff3fffu) == 0 && b >> 62 == 1, "a descriptor is not of 128-byte swizzling without an offset");
  const std::uint32_t start = (b & 0x3fff) << 4, stride = (b >> 32 & 0x3fff) << 4;
  std::vector<float> right(16 * 64);
  for (std::uint32_t k = 0; k < 16; ++k) {
    for (std::uint32_t n = 0; n < 64; ++n) {
      const std::uint32_t row = across ? k : n, column = across ? n : k;
      std::uint16_t word;
      std::memcpy(&word, swizzled(of, start + row / 8 * stride + row % 8 * 128 + column * 2, 2), 2);
      right[k * 64 + n] = widen(word);
    }
  }
  return right;
}

inline void finish(Block* of, WarpProducts& products) {
  Product& product = products.queue.front();
  const auto right = product.early_right ? product.right : right_operand(of, product.b, product.across);
  float left[16][16];
  for (int l = 0; l < 32; ++l) {
    const std::uint32_t* a = product.early_left ? product.early_a[l] : product.a[l];
    for (int i = 0; i < 8; ++i) {
      left[l / 4 + (i / 2 % 2) * 8][l % 4 * 2 + i % 2 + i / 4 * 8] = widen(a[i / 2] >> (16 * (i % 2)) & 0xffff);
    }
  }
  Sums& sums = products.sums[product.d[0]];
  for (int l = 0; l < 32; ++l) {
    for (int n = 0; n < 8; ++n) {
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + i / 2 * 8, column = 8 * n + l % 4 * 2 + i % 2;
        double sum = product.add ? sums.value[l][n][i] : 0.0;
        for (int k = 0; k < 16; ++k) sum += double{left[row][k]} * right[k * 64 + column];
        sums.value[l][n][i] = static_cast<float>(sum);
      }
    }
  }
  if (--sums.running == 0) {
    for (int l = 0; l < 32; ++l) std::memcpy(product.d[l], sums.value[l], sizeof sums.value[l]);
    products.sums.erase(product.d[0]);
  }
  products.queue.pop_front();
  ++products.done;
}

inline WarpProducts& own_products() { return state->products[{block, block->current / 32}]; }

// All four warps of the current thread's warpgroup have issued so many products.
inline bool all_issued(long count) {
  const int first = block->current / 128 * 4;
  for (int w = first; w < first + 4; ++w) {
    if (state->products[{block, w}].issued < count) return false;
  }
  return true;
}

inline void run_cluster(int blocks, int first_column, int row, int threads, std::size_t shared_bytes, unsigned seed,
                        const std::function<void()>& body) {
  Run cluster;
  cluster.blocks.resize(blocks);
  for (int i = 0; i < blocks; ++i) prepare(cluster.blocks[i], first_column + i, row, threads, shared_bytes);
  cluster.body = body;
  cluster.at_end = [] { need(own_products().queue.empty(), "a thread ended with a product in flight"); };
  State own;
  own.random.seed(seed);
  cluster.between_warps = [&own](std::mt19937& random) {
    for (std::size_t i = 0; i < own.in_flight.size();) {
      if (random() % 24 != 0) {
        ++i;
        continue;
      }
      const auto operation = std::move(own.in_flight[i]);
      own.in_flight.erase(own.in_flight.begin() + static_cast<std::ptrdiff_t>(i));
      operation();
    }
  };
  struct Clear {
    ~Clear() { state = nullptr, on_read = nullptr; }
  } clear;
  state = &own;
  on_read = [](Shared row) { state->reads[{block, block->current}].push_back(row); };
  run(cluster, seed, 100'000);
  need(own.in_flight.empty(), "the blocks ended with a copy in flight");
}

}  // namespace emulation

template <int Count>
void more_registers() {}
template <int Count>
void fewer_registers() {}

inline void warp_sync() {
  emulation::meet(emulation::Kind::other, [](emulation::Warp&) {});
}

inline void init_barrier(Shared barrier, int count) {
  emulation::need(count > 0, "a barrier of nobody");
  emulation::need(barrier % 8 == 0, "a barrier's address is not a multiple of 8");
  emulation::shared_at(emulation::block, barrier, 8);
  emulation::state->barriers[{emulation::block, barrier}] = {count, count, 0, 0, false};
}
inline void publish_barriers() {
  if (emulation::skipped(emulation::Step::publish)) return;
  for (auto& [place, barrier] : emulation::state->barriers) barrier.published = barrier.published || place.first == emulation::block;
}
inline void arrive(Shared barrier) {
  auto& own = emulation::memory_barrier(emulation::block, barrier);
  --own.missing;
  emulation::settle(own);
}
inline void arrive_with_bytes(Shared barrier, int bytes) {
  emulation::memory_barrier(emulation::block, barrier).bytes += bytes;
  arrive(barrier);
}
inline void wait_for_phase(Shared barrier, int parity) {
  emulation::wait_until([&] { return (emulation::memory_barrier(emulation::block, barrier).phase & 1) != parity; });
}
inline void wait(Shared barrier, int parity) {
  if (!emulation::skipped(emulation::Step::barrier_wait)) wait_for_phase(barrier, parity);
}
inline void wait_for_blocks(Shared barrier, int parity) {
  if (!emulation::skipped(emulation::Step::block_wait)) wait_for_phase(barrier, parity);
}

inline void finish_reads() {
  if (!emulation::skipped(emulation::Step::finish_reads)) emulation::state->reads.erase({emulation::block, emulation::block->current});
  warp_sync();
}

// What csrc/attention/attention_sm90.cu tells the driver, and the boxes that follow from it.
struct TensorMap {
  const std::uint16_t* base;
  std::int64_t sizes[4];       // head_dim, heads, tokens, batch
  std::int64_t steps[4] = {};  // in elements
};
inline void load_box(Shared to, const TensorMap& map, Shared barrier, int head, int token, int batch) {
  auto* const of = emulation::block;
  emulation::need(to % 1024 == 0, "a swizzled box's address is not a multiple of what the swizzle repeats after");
  for (const auto& [thread, rows] : emulation::state->reads) {
    for (const Shared row : rows) {
      emulation::need(thread.first != of || row < to || row >= to + 64 * 128, "a box where a thread's reads are not finished");
    }
  }
  for (std::uint32_t i = 0; i < 64 * 128; ++i) *emulation::swizzled(of, to + i, 1) = 0xff;
  emulation::state->in_flight.emplace_back([=, &map] {
    for (std::uint32_t row = 0; row < 64; ++row) {
      for (std::uint32_t d = 0; d < 64; ++d) {
        const std::int64_t at[] = {d, head, token + row, batch};
        std::uint16_t word = 0;
        const std::uint16_t* from = map.base;
        bool inside = true;
        for (int i = 0; i < 4; ++i) {
          inside = inside && at[i] < map.sizes[i];
          from += at[i] * map.steps[i];
        }
        if (inside) word = *from;
        std::memcpy(emulation::swizzled(of, to + row * 128 + d * 2, 2), &word, 2);
      }
    }
    emulation::bytes_arrive(of, barrier, 64 * 128);
  });
}

inline void product_fence() {
  if (emulation::skipped(emulation::Step::product_fence)) return;
  emulation::meet(emulation::Kind::other, [](emulation::Warp&) { emulation::own_products().fenced = true; });
}
inline void product_commit() {
  emulation::meet(emulation::Kind::other, [](emulation::Warp&) {
    auto& products = emulation::own_products();
    products.groups.push_back(products.issued);
  });
}
template <int Left>
void product_wait() {
  if (emulation::skipped(emulation::Step::product_wait)) return;
  const auto& groups = emulation::own_products().groups;
  const long target = static_cast<int>(groups.size()) > Left ? groups[groups.size() - 1 - Left] : 0;
  emulation::wait_until([&] { return emulation::all_issued(target); });
  emulation::meet(emulation::Kind::other, [](emulation::Warp&) {
    auto& products = emulation::own_products();
    long until = 0;
    for (; static_cast<int>(products.groups.size()) > Left; products.groups.pop_front()) until = products.groups.front();
    while (products.done < until) emulation::finish(emulation::block, products);
    products.fenced = false;
  });
}
template <int Rows>
void pin(float (&)[Rows][4]) {}
template <int Rows>
void pin(std::uint32_t (&)[Rows][4]) {}

template <bool Across>
void multiply(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
  auto& products = emulation::own_products();
  const int lane = emulation::block->current % 32;
  struct Operands {
    float (*d)[4];
    const std::uint32_t* a;
    std::uint64_t b;
    bool add;
  };
  static std::map<std::pair<emulation::Warp*, int>, Operands> operands;
  operands[{&emulation::warp(), lane}] = {d, a, b, add};
  emulation::meet(emulation::Kind::other, [&](emulation::Warp& warp) {
    emulation::need(products.fenced, "a product without a fence behind other uses of its registers");
    emulation::Product product{};
    product.add = add;
    product.across = Across;
    product.b = b;
    product.early_left = emulation::state->random() % 2;
    product.early_right = emulation::state->random() % 2;
    if (product.early_right) product.right = emulation::right_operand(emulation::block, b, Across);
    for (int l = 0; l < 32; ++l) {
      const Operands& own = operands[{&warp, l}];
      emulation::need(own.b == b && own.add == add, "the lanes of a warp multiply different operands");
      product.d[l] = own.d;
      product.a[l] = own.a;
      std::copy_n(own.a, 4, product.early_a[l]);
    }
    auto& sums = products.sums[product.d[0]];
    if (sums.running++ == 0) {
      for (int l = 0; l < 32; ++l) std::memcpy(sums.value[l], product.d[l], sizeof sums.value[l]);
    }
    for (int l = 0; l < 32; ++l) {
      for (int n = 0; n < 8; ++n) std::fill_n(product.d[l][n], 4, std::numeric_limits<float>::quiet_NaN());
    }
    products.queue.push_back(std::move(product));
    ++products.issued;
  });
}

inline int cluster_rank() { return static_cast<int>(emulation::block - emulation::running->blocks.data()); }
inline void cluster_arrive() {
  auto& state = *emulation::state;
  state.cluster_seen[{emulation::block, emulation::block->current}] = state.cluster_generation;
  int threads = 0;
  for (const auto& each : emulation::running->blocks) threads += each.threads;
  if (++state.cluster_arrived < threads) return;
  state.cluster_arrived = 0;
  ++state.cluster_generation;
}
inline void cluster_wait() {
  if (emulation::skipped(emulation::Step::cluster_wait)) return;
  const long seen = emulation::state->cluster_seen.at({emulation::block, emulation::block->current});
  emulation::wait_while(emulation::state->cluster_generation, seen);
}
inline void store_to_block(Shared address, int rank, const float (&x)[4], Shared barrier) {
  auto* const to = &emulation::running->blocks.at(rank);
  emulation::need(to->started, "a store to a block that does not run yet");
  emulation::need(address % 16 == 0, "a store to another block at no multiple of 16");
  unsigned char* const there = emulation::shared_at(to, address, 16);
  float copy[4];
  std::copy_n(x, 4, copy);
  emulation::state->in_flight.emplace_back([=] {
    emulation::need(to->done < to->threads, "a store to a block that has ended");
    std::memcpy(there, copy, 16);
    emulation::bytes_arrive(to, barrier, 16);
  });
}

}  // namespace esat::sm90

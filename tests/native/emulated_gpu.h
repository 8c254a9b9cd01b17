// A thread block on the host: the functions of csrc/attention/sm80_primitives.cuh, so that the attention kernel's own source runs here.
//
// Every CUDA thread is a fiber. Instructions of a warp wait for its 32 lanes and follow the PTX ISA's fragment tables, not the kernel's
// header; barriers count their threads; cp.async writes poison at once and the data only when it is waited for; shared memory starts as
// NaN. The order of the threads is drawn from a seed, so that a missing barrier shows as a wrong or changing result.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "attention/convert.h"

#define ESAT_DEVICE inline

namespace esat::sm80 {

using Shared = std::uint32_t;  // an address in the block's shared memory, in bytes

namespace emulation {

inline constexpr Shared kFirst = 1024;  // of the kernel's; what lies before is the system's, as on a device

// Instructions to leave out, in every thread: the wait for copies, or the barriers number `index`, `index` + `every`, ... of a thread.
struct Omission {
  bool copy_wait = false;
  int barrier = -1, every = 1 << 30;
};
inline Omission omitted;
inline long failed_votes = 0;                // of `all`, by warps
inline std::function<void(Shared)> on_read;  // of a row by ldmatrix, if anyone wants to know

inline void need(bool good, const char* what) {
  if (!good) throw std::logic_error(what);
}

enum class Kind { none, load, load_transposed, multiply, shuffle, vote, other };

// One lane's operands and results of the warp instruction that it has reached.
struct Lane {
  const unsigned char* row = nullptr;
  std::uint32_t a[4] = {}, b[2] = {}, loaded[4] = {};
  float c[4] = {}, value = 0.0f, shuffled = 0.0f;
  int source = 0;
  bool condition = false, unanimous = false;
};

struct Warp {
  Kind kind = Kind::none;
  int arrived = 0;
  long generation = 0;
  Lane lanes[32];
};

struct Copy {
  unsigned char* shared;
  const unsigned char* global;  // null: zeros
};

struct Thread {
  ucontext_t context;
  std::vector<unsigned char> stack;
  std::vector<Copy> copies;
  int barriers = 0;
  bool done = false;
};

struct Barrier {
  int arrived = 0;
  int expected = 0;
  long generation = 0;
};

struct Block {
  int threads = 0, column = 0, row = 0, current = 0;
  std::vector<unsigned char> shared_storage;
  unsigned char* shared = nullptr;
  std::size_t shared_bytes = 0;
  std::vector<Thread> fibers;
  std::vector<Warp> warps;
  std::map<int, Barrier> barriers;
  bool started = false;
  int done = 0;  // threads
};

// The blocks that run at once, and what holds for all.
struct Run {
  std::vector<Block> blocks;
  ucontext_t scheduler;
  std::function<void()> body;
  std::function<void()> at_end;                      // of each thread
  std::function<void(std::mt19937&)> between_warps;  // what runs on its own
  std::exception_ptr error;
  long progress = 0;  // of threads: those that only wait need no more turns
};

inline Run* running = nullptr;
inline Block* block = nullptr;  // of the current thread

inline Thread& self() { return block->fibers[block->current]; }
inline Warp& warp() { return block->warps[block->current / 32]; }
inline Lane& lane() { return warp().lanes[block->current % 32]; }

// Hands over to other threads until the condition holds.
template <class Condition>
void wait_until(const Condition& condition) {
  ++running->progress;
  while (!condition()) swapcontext(&self().context, &running->scheduler);
  ++running->progress;
}
inline void wait_while(const long& generation, long seen) {
  wait_until([&] { return generation != seen; });
}

inline const unsigned char* matrix_row(const Warp& w, int matrix, int row) { return w.lanes[8 * matrix + row].row; }

inline std::uint32_t half_word(const unsigned char* row, int column) {
  std::uint16_t value;
  std::memcpy(&value, row + 2 * column, 2);
  return value;
}

inline float widen(std::uint32_t half_word) { return attention::from_bf16(static_cast<std::uint16_t>(half_word)); }
inline std::uint32_t narrow(float value) { return attention::to_bf16(value); }

inline void execute(Warp& w) {
  bool unanimous = true;
  for (const Lane& own : w.lanes) unanimous = unanimous && own.condition;
  if (w.kind == Kind::vote && !unanimous) ++failed_votes;
  for (int l = 0; l < 32; ++l) {
    Lane& own = w.lanes[l];
    const int group = l / 4, in_group = l % 4;
    own.unanimous = unanimous;
    if (w.kind == Kind::shuffle) own.shuffled = w.lanes[own.source].value;
    for (int m = 0; m < 4; ++m) {
      if (w.kind == Kind::load) {
        const unsigned char* row = matrix_row(w, m, group);
        own.loaded[m] = half_word(row, 2 * in_group) | half_word(row, 2 * in_group + 1) << 16;
      } else if (w.kind == Kind::load_transposed) {
        own.loaded[m] = half_word(matrix_row(w, m, 2 * in_group), group) | half_word(matrix_row(w, m, 2 * in_group + 1), group) << 16;
      }
    }
  }
  if (w.kind != Kind::multiply) return;
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; ++l) {
    const int group = l / 4, in_group = l % 4;
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
      const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      a[row][column] = widen(w.lanes[l].a[i / 2] >> (16 * (i & 1)) & 0xffff);
    }
    for (int i = 0; i < 4; ++i) b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = widen(w.lanes[l].b[i / 2] >> (16 * (i & 1)) & 0xffff);
  }
  for (int l = 0; l < 32; ++l) {
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + (i >= 2 ? 8 : 0), column = l % 4 * 2 + (i & 1);
      double sum = w.lanes[l].c[i];
      for (int k = 0; k < 16; ++k) sum += double{a[row][k]} * b[k][column];
      w.lanes[l].c[i] = static_cast<float>(sum);
    }
  }
}

// The lanes of a warp meet here; the last one executes the instruction for all.
template <class Instruction>
void meet(Kind kind, const Instruction& instruction) {
  Warp& w = warp();
  need(w.arrived == 0 || w.kind == kind, "the lanes of a warp have reached different instructions");
  w.kind = kind;
  const long seen = w.generation;
  if (++w.arrived == 32) {
    instruction(w);
    w.arrived = 0;
    ++w.generation;
  } else {
    wait_while(w.generation, seen);
  }
}
inline void meet(Kind kind) { meet(kind, execute); }

inline unsigned char* shared_at(Block* of, Shared address, std::size_t bytes) {
  need(address >= kFirst && address - kFirst + bytes <= of->shared_bytes, "outside of shared memory");
  return of->shared + (address - kFirst);
}
inline unsigned char* at(Shared address, std::size_t bytes) {
  need(address % 16 == 0, "shared memory address is not a multiple of 16");
  return shared_at(block, address, bytes);
}

inline void fiber_main() {
  try {
    running->body();
    need(self().copies.empty() || omitted.copy_wait, "a thread ended with a copy in flight");
    if (running->at_end) running->at_end();
  } catch (...) {
    running->error = std::current_exception();
  }
  self().done = true;
  ++block->done;
  swapcontext(&self().context, &running->scheduler);
}

[[gnu::noinline]] inline void prepare(Thread& fiber) {
  fiber.stack.resize(64 * 1024);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

inline void prepare(Block& made, int column, int row, int threads, std::size_t shared_bytes) {
  made.threads = threads;
  made.column = column;
  made.row = row;
  made.shared_storage.assign(shared_bytes + 16, 0xff);
  made.shared = made.shared_storage.data() + (16 - reinterpret_cast<std::uintptr_t>(made.shared_storage.data()) % 16) % 16;
  made.shared_bytes = shared_bytes;
  made.warps.resize(threads / 32);
  made.fibers.resize(threads);
  for (Thread& fiber : made.fibers) prepare(fiber);
}

// Runs `blocks` to their end, the threads in an order drawn from `seed`, and the blocks from times that are. std::logic_error for misuse or
// a deadlock.
inline void run(Run& run, unsigned seed, long most_rounds) {
  struct Clear {
    ~Clear() { running = nullptr, block = nullptr; }
  } clear;
  running = &run;
  std::mt19937 random(seed);
  std::vector<std::pair<Block*, int>> order;
  std::map<Block*, long> starts;
  std::size_t left = 0;
  for (Block& each : run.blocks) {
    for (std::size_t w = 0; w < each.warps.size(); ++w) order.emplace_back(&each, static_cast<int>(w));
    if (run.blocks.size() > 1) starts[&each] = random() % 2 ? 0 : random() % 200;
    left += each.fibers.size();
  }
  for (long rounds = 0; left > 0; ++rounds) {
    need(rounds < most_rounds, "deadlock: threads wait for each other");
    std::shuffle(order.begin(), order.end(), random);
    for (const auto& [of, w] : order) {
      if (rounds < starts[of]) continue;
      block = of;
      block->started = true;
      // A warp may run ahead of the others by many instructions, as on a GPU.
      long before = -1;
      for (unsigned burst = random() % 40 + 1; burst > 0 && before != run.progress; --burst) {
        before = run.progress;
        for (int l = 0; l < 32; ++l) {
          block->current = 32 * w + l;
          if (self().done) continue;
          swapcontext(&run.scheduler, &self().context);
          if (run.error) std::rethrow_exception(run.error);
          left -= self().done;
        }
      }
      if (run.between_warps) run.between_warps(random);
    }
  }
}

// One block alone.
inline void run_block(int column, int row, int threads, std::size_t shared_bytes, unsigned seed, const std::function<void()>& body) {
  Run one;
  one.blocks.resize(1);
  prepare(one.blocks[0], column, row, threads, shared_bytes);
  one.body = body;
  run(one, seed, 10'000'000);
}

}  // namespace emulation

inline int thread_index() { return emulation::block->current; }
inline int thread_count() { return emulation::block->threads; }
inline int block_column() { return emulation::block->column; }
inline int block_row() { return emulation::block->row; }
inline unsigned char* shared_memory() { return emulation::block->shared; }

inline Shared shared_address(const void* pointer) {
  return emulation::kFirst + static_cast<Shared>(static_cast<const unsigned char*>(pointer) - emulation::block->shared);
}

template <class T>
inline T opaque(T value) {
  return value;
}

inline void load_global(std::uint32_t (&pairs)[4], const void* from) {
  emulation::need(reinterpret_cast<std::uintptr_t>(from) % 16 == 0, "global address is not a multiple of 16");
  std::memcpy(pairs, from, 16);
}

inline void copy_async(Shared shared, const void* global, bool there) {
  emulation::need(reinterpret_cast<std::uintptr_t>(global) % 16 == 0, "global address is not a multiple of 16");
  unsigned char* to = emulation::at(shared, 16);
  std::memset(to, 0xff, 16);
  emulation::self().copies.push_back({to, there ? static_cast<const unsigned char*>(global) : nullptr});
}
inline void copy_commit() {}
inline void copy_wait() {
  if (emulation::omitted.copy_wait) return;
  for (const auto& copy : emulation::self().copies) {
    copy.global != nullptr ? std::memcpy(copy.shared, copy.global, 16) : std::memset(copy.shared, 0, 16);
  }
  emulation::self().copies.clear();
}

inline void barrier(int id, int threads) {
  const int index = emulation::self().barriers++ - emulation::omitted.barrier;
  if (emulation::omitted.barrier >= 0 && index >= 0 && index % emulation::omitted.every == 0) return;
  auto& own = emulation::block->barriers[id];
  emulation::need(own.arrived == 0 || own.expected == threads, "a barrier with two thread counts");
  own.expected = threads;
  const long seen = own.generation;
  if (++own.arrived == threads) {
    own.arrived = 0;
    ++own.generation;
  } else {
    emulation::wait_while(own.generation, seen);
  }
}

inline void load(std::uint32_t (&r)[4], Shared row, emulation::Kind kind) {
  emulation::lane().row = emulation::at(row, 16);
  if (emulation::on_read) emulation::on_read(row);
  emulation::meet(kind);
  std::copy_n(emulation::lane().loaded, 4, r);
}
inline void load_matrix(std::uint32_t (&r)[4], Shared row) { load(r, row, emulation::Kind::load); }
inline void load_matrix_transposed(std::uint32_t (&r)[4], Shared row) { load(r, row, emulation::Kind::load_transposed); }
inline void load_floats(float (&x)[4], Shared from) { std::memcpy(x, emulation::at(from, 16), 16); }

inline void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, const float (&c)[4]) {
  auto& own = emulation::lane();
  std::copy_n(a, 4, own.a);
  own.b[0] = b0;
  own.b[1] = b1;
  std::copy_n(c, 4, own.c);
  emulation::meet(emulation::Kind::multiply);
  std::copy_n(emulation::lane().c, 4, d);
}

inline std::uint32_t pack(float low, float high) { return emulation::narrow(low) | emulation::narrow(high) << 16; }
inline float bf16_low(std::uint32_t pair) { return emulation::widen(pair & 0xffff); }
inline float bf16_high(std::uint32_t pair) { return emulation::widen(pair >> 16); }

inline bool all(bool condition) {
  emulation::lane().condition = condition;
  emulation::meet(emulation::Kind::vote);
  return emulation::lane().unanimous;
}

inline float shuffle(float value, int source) {
  emulation::lane().value = value;
  emulation::lane().source = source;
  emulation::meet(emulation::Kind::shuffle);
  return emulation::lane().shuffled;
}
inline float shuffle_xor(float value, int mask) { return shuffle(value, emulation::block->current % 32 ^ mask); }

inline float exp2_fast(float x) {  // flushes what is not normal, like ex2.approx.ftz
  const float y = std::exp2(x);
  return y < std::numeric_limits<float>::min() ? 0.0f : y;
}
inline float log2_fast(float x) { return std::log2(x); }
inline float maximum(float a, float b) { return std::fmax(a, b); }
inline float minimum(float a, float b) { return std::fmin(a, b); }
inline int smaller(int a, int b) { return std::min(a, b); }

}  // namespace esat::sm80

// The sm_80 attention kernel's own source, run thread by thread on the host (emulated_gpu.h), against float64.

#include "cuda_attention_cases.h"
//
#include "attention/fda_sm80_kernel.cuh"

using namespace esat::sm80;
using esat::testing::Case;
using esat::testing::Data;
using esat::testing::Result;
using esat::testing::same;

namespace {

template <int D, int Warps>
void run_blocks(const esat::cuda::Forward& call, unsigned schedule) {
  for (int slice = 0; slice < call.batch * call.heads; ++slice) {
    for (int column = 0; column < ceil_div(call.tokens, Warps * kRowsPerWarp); ++column) {
      emulation::run_block(column, slice, kHalves * threads_per_half(Warps), shared_bytes(D, call.tokens), schedule + 31 * column, [&call] {
        if (call.alpha > 0.0f) {
          fda_forward_block<D, true, Warps>(call);
        } else {
          fda_forward_block<D, false, Warps>(call);
        }
      });
    }
  }
}

template <int D>
void run_rows(const esat::cuda::Forward& call, const Case& c, unsigned schedule) {
  if (c.rows == 32) run_blocks<D, 2>(call, schedule);
  if (c.rows == 48) run_blocks<D, 3>(call, schedule);
  if (c.rows == 64) run_blocks<D, 4>(call, schedule);
  if (c.rows == 80) run_blocks<D, 5>(call, schedule);
}

void forward(const esat::cuda::Forward& call, const Case& c, unsigned schedule) {
  c.head_dim == 32 ? run_rows<32>(call, c, schedule) : run_rows<64>(call, c, schedule);
}

Result run(Data& data, unsigned schedule = 1) { return esat::testing::run(forward, data, schedule); }
void check(const Case& c) { esat::testing::check(forward, c); }

void sizes() {
  for (const int tokens : {1, 15, 16, 17, 63, 64, 65, 79, 80, 81, 129, 190, 343})
    check({.tokens = tokens, .rows = 32, .seed = unsigned(tokens)});
  for (const int rows : {48, 64, 80}) check({.tokens = 153, .rows = rows});
  check({.tokens = 720, .rows = 80});
}

void head_dimensions_and_layouts() {
  for (const int rows : {32, 48, 64, 80}) check({.tokens = 97, .head_dim = 32, .rows = rows});
  check({.batch = 2, .heads = 3, .tokens = 40});
  esat::testing::check_forces(forward, 32);
}

void exact_tiles() {
  esat::testing::check_exact_tiles(forward, 32, 8 * 2);
  // Also where a product's exponent would overflow, were it not for the terms of keys behind the last one.
  CHECK_EQUAL(esat::testing::failed_votes(forward, {.tokens = 65, .beta = 0.0f, .delta = 0.6f, .seed = 6}), 0L);
}

void what_is_not_finite_goes_where_the_formula_takes_it() {
  for (const int place : {2, 66, 69}) esat::testing::check_what_is_not_finite(forward, {.tokens = 70}, place);
}

void any_order_of_the_threads_gives_the_same_bits() {
  Data data({.tokens = 153, .rows = 48});
  const Result first = run(data, 1);
  for (unsigned schedule = 2; schedule < 8; ++schedule) CHECK(same(first, run(data, schedule)));
}

bool shows(const emulation::Omission& omission, Data& data, const Result& right) {
  emulation::omitted = omission;
  bool found = false;
  for (unsigned schedule = 1; schedule < 9 && !found; ++schedule) found = !same(right, run(data, schedule));
  emulation::omitted = {};
  return found;
}

// Each half of a block passes three barriers in its loop, then the block two; without any of them, or without the wait for copies, results
// are wrong or change.
void every_barrier_is_needed() {
  Data data({.tokens = 330, .rows = 48});
  const Result right = run(data);
  CHECK(!shows({}, data, right));
  CHECK(shows({.copy_wait = true}, data, right));
  for (int index = 0; index < 5; ++index) CHECK(shows({.barrier = index}, data, right));
}

}  // namespace

int main() {
  sizes();
  head_dimensions_and_layouts();
  exact_tiles();
  what_is_not_finite_goes_where_the_formula_takes_it();
  any_order_of_the_threads_gives_the_same_bits();
  every_barrier_is_needed();
  return esat::testing::failures != 0;
}

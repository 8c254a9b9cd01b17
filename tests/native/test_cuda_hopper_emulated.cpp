// The Hopper attention kernel's own source, run thread by thread on the host (emulated_hopper.h), against float64.

#include "cuda_attention_cases.h"
#include "emulated_hopper.h"
//
#include "attention/fda_sm90_kernel.cuh"

using namespace esat::sm90;
using esat::testing::Case;
using esat::testing::Data;
using esat::testing::Result;
using esat::testing::same;

namespace {

TensorMap tensor_map(const void* base, const esat::cuda::Strides& strides, const esat::cuda::Forward& call) {
  return {static_cast<const std::uint16_t*>(base),
          {kHeadDim, call.heads, call.tokens, call.batch},
          {1, strides.head, strides.token, strides.batch}};
}

template <bool Attract, int Groups>
void run_clusters(const esat::cuda::Forward& call, unsigned schedule) {
  const TensorMap keys = tensor_map(call.key, call.key_strides, call), values = tensor_map(call.value, call.value_strides, call);
  for (int slice = 0; slice < call.batch * call.heads; ++slice) {
    for (int cluster = 0; cluster < ceil_div(call.tokens, Groups * kGroupRows); ++cluster) {
      emulation::run_cluster(kBlocks, kBlocks * cluster, slice, block_threads(Groups), shared_bytes(Groups, call.tokens),
                             schedule + 31 * cluster, [&] { fda_forward_block<Attract, Groups>(call, keys, values); });
    }
  }
}

void forward(const esat::cuda::Forward& call, const Case& c, unsigned schedule) {
  if (c.rows == 128) call.alpha > 0.0f ? run_clusters<true, 2>(call, schedule) : run_clusters<false, 2>(call, schedule);
  if (c.rows == 192) call.alpha > 0.0f ? run_clusters<true, 3>(call, schedule) : run_clusters<false, 3>(call, schedule);
}

Result run(Data& data, unsigned schedule = 1) { return esat::testing::run(forward, data, schedule); }
void check(Case c) {
  if (c.rows == 32) c.rows = 128;
  esat::testing::check(forward, c);
}

void sizes() {
  for (const int tokens : {1, 15, 16, 17, 63, 64, 65, 80, 127, 128, 129, 190, 199}) check({.tokens = tokens, .seed = unsigned(tokens)});
  for (const int tokens : {65, 193, 320, 343}) check({.tokens = tokens, .rows = 192, .seed = unsigned(tokens)});
}

void sizes_of_the_models() {
  for (const int tokens : {720, 548, 427, 343, 320}) check({.tokens = tokens, .rows = tokens == 720 ? 192 : 128});
}

void forces_and_layouts() {
  check({.batch = 2, .heads = 3, .tokens = 100});
  check({.batch = 3, .heads = 2, .tokens = 200, .rows = 192});
  esat::testing::check_forces(forward, 128);
  check({.tokens = 81, .rows = 192, .alpha = 0.0f});
}

void exact_tiles() {
  esat::testing::check_exact_tiles(forward, 128, 16 * 2);
  check({.tokens = 650, .first_long = 100, .last_long = 600});  // with stages that are used again
}

void what_is_not_finite_goes_where_the_formula_takes_it() {
  // Of the first block's keys, of the second's; with one tile for each block, and with two.
  for (const int place : {2, 66, 69}) esat::testing::check_what_is_not_finite(forward, {.tokens = 70, .rows = 128}, place);
  for (const int place : {2, 70, 130, 199}) esat::testing::check_what_is_not_finite(forward, {.tokens = 200, .rows = 128}, place);
}

void any_order_of_the_threads_gives_the_same_bits() {
  for (const int rows : {128, 192}) {
    Data data({.tokens = rows == 128 ? 330 : 653, .rows = rows});
    const Result first = run(data, 1);
    for (unsigned schedule = 2; schedule < 5; ++schedule) CHECK(same(first, run(data, schedule)));
  }
}

// Whether a result changes or something is misused if this is left out, in one of a few orders of the threads.
template <class Omission>
bool shows(Omission& place, const Omission& omission, Data& data, const Result& right) {
  place = omission;
  bool found = false;
  for (unsigned schedule = 1; schedule < 13 && !found; ++schedule) {
    try {
      found = !same(right, run(data, schedule));
    } catch (const std::logic_error&) {
      found = true;
    }
  }
  place = {};
  return found;
}

// Each wait, fence and barrier left out in turn; README.md lists them.
void every_wait_is_needed() {
  using emulation::Step;
  const int consumers = 2 * kGroupThreads;
  Data data({.tokens = 330, .rows = 128});  // three tiles for each block
  const Result right = run(data);
  const auto needed = [&](Step step, int index, int first_thread = 0, int last_thread = 1 << 30) {
    const bool found = shows(emulation::left_out, {step, index, first_thread, last_thread}, data, right);
    if (!found) std::fprintf(stderr, "step %d number %d can be left out\n", static_cast<int>(step), index);
    CHECK(found);
  };
  for (int tile = 0; tile < 3; ++tile) {
    needed(Step::barrier_wait, tile, 0, consumers);
    needed(Step::product_fence, tile);
    needed(Step::product_wait, 2 * tile);
    if (tile > 0) needed(Step::product_wait, 2 * tile + 1);  // the first round's product with values is dropped
  }
  needed(Step::product_fence, 3);
  needed(Step::product_wait, 6);
  needed(Step::publish, 0);
  needed(Step::cluster_wait, 0);
  needed(Step::block_wait, 0);
  CHECK(shows(esat::sm80::emulation::omitted, {.barrier = 0}, data, right));

  Data longer({.tokens = 650, .rows = 128});  // six tiles and five: two and one that wait for a stage
  const Result right_too = run(longer);
  for (int index = 0; index < 2; ++index) {
    CHECK(shows(emulation::left_out, {Step::barrier_wait, index, consumers, 1 << 30}, longer, right_too));
  }

  Data exact(
      {.tokens = 650, .rows = 128, .beta = 0.0f, .last_long = 64});  // each warp reads its first tile itself, which is then copied over
  CHECK(shows(emulation::left_out, {Step::finish_reads, 0}, exact, run(exact)));
}

}  // namespace

int main() {
  sizes();
  sizes_of_the_models();
  forces_and_layouts();
  exact_tiles();
  what_is_not_finite_goes_where_the_formula_takes_it();
  any_order_of_the_threads_gives_the_same_bits();
  every_wait_is_needed();
  return esat::testing::failures != 0;
}

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
using esat::testing::widen;

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
  check({.tokens = 81, .alpha = 0.0f, .beta = 0.0f});
  check({.tokens = 81, .rows = 192, .alpha = 0.0f});
  check({.tokens = 81, .beta = 0.0f});
  check({.tokens = 81, .delta = 0.0f});
  check({.tokens = 81, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 8.0f});
}

// Runs the case and says how many votes of a warp failed: tiles that were done exactly, and warps that did not trust a factor.
long failed_votes(const Case& c) {
  emulation::failed_votes = 0;
  check(c);
  return emulation::failed_votes;
}

void exact_tiles() {
  const int warps = 16 * 2;  // of a case with 255 tokens, and two tiles for each
  CHECK_EQUAL(failed_votes({.tokens = 255}), 0L);
  CHECK(failed_votes({.tokens = 255, .length = 40.0f}) >= warps / 2);
  // In a block's last tile; and in its first alone, whose reference the usual ones then take over.
  CHECK(failed_votes({.tokens = 255, .beta = 0.0f, .first_long = 192, .last_long = 255}) > 0);
  const long first = failed_votes({.tokens = 383, .beta = 0.0f, .first_long = 0, .last_long = 64});
  CHECK(first > 0 && first <= 24);  // once for each warp of the clusters' first blocks
  CHECK(failed_votes({.tokens = 255, .alpha = 100.0f, .delta = 0.005f}) >= warps);
  CHECK(failed_votes({.tokens = 255, .beta = 1.0f, .delta = 0.5f, .length = 14.0f}) >= warps);
  CHECK(failed_votes({.tokens = 255, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 30.0f}) >= warps);
  CHECK(failed_votes({.tokens = 255, .alpha = 0.1f, .beta = 0.0f, .delta = 2.0f, .length = 12.0f}) >= 2 * warps);
  for (const float delta : {3.0f, 4.0f, 5.0f}) check({.tokens = 255, .beta = 0.0f, .delta = delta});
  check({.tokens = 650, .first_long = 100, .last_long = 600});  // with stages that are used again
}

void nan_goes_where_the_formula_takes_it() {
  for (const int token_with_nan : {2, 66}) {  // of the first block's keys, of the second's
    for (const int which : {0, 1, 2}) {
      Data data({.tokens = 70, .rows = 128});
      *data.at(which, 0, 0, token_with_nan, 5) = 0x7fc0;
      const Result result = run(data);
      for (int token = 0; token < 70; ++token) {
        for (int d = 0; d < 64; ++d) {
          const bool wanted = which == 1 || (which == 0 ? token == token_with_nan : d == 5);
          CHECK_EQUAL(std::isnan(widen(result.out[token * 64 + d])), wanted);
        }
      }
    }
  }
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
    needed(Step::product_wait, 2 * tile + 1);
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
}

}  // namespace

int main() {
  sizes();
  sizes_of_the_models();
  forces_and_layouts();
  exact_tiles();
  nan_goes_where_the_formula_takes_it();
  any_order_of_the_threads_gives_the_same_bits();
  every_wait_is_needed();
  return esat::testing::failures != 0;
}

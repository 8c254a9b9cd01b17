// The CUDA attention kernel's own source, run thread by thread on the host (emulated_gpu.h), against float64.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "emulated_gpu.h"
//
#include "attention/fda_sm80_kernel.cuh"

using namespace esat::sm80;

namespace {

struct Case {
  int batch = 1, heads = 1, tokens = 64, head_dim = 64, rows = 32;
  float alpha = 1.0f, beta = 1.0f, delta = 0.02f;
  float length = 0.0f;                // of every query and key; 0: k = stretched, permuted q + noise, where every term matters
  int first_long = 0, last_long = 0;  // keys [first, last) are eight times as long
  unsigned seed = 1;
};

std::uint16_t narrow(float value) { return static_cast<std::uint16_t>(emulation::narrow(value)); }
float widen(std::uint16_t word) { return emulation::widen(word); }

// q, k, v as slices of one [B, N, 3, H, D] tensor, with NaN before and after it.
struct Data {
  Case c;
  std::vector<std::uint16_t> storage;
  std::uint16_t* packed;

  explicit Data(const Case& from) : c(from), storage(std::size_t(c.batch) * c.tokens * 3 * c.heads * c.head_dim + 32, 0x7fff) {
    packed = storage.data() + 8;
    while (reinterpret_cast<std::uintptr_t>(packed) % 16 != 0) ++packed;
    std::mt19937 random(c.seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> stretch(0.5f, 1.5f);
    for (int b = 0; b < c.batch; ++b) {
      for (int h = 0; h < c.heads; ++h) {
        for (int n = 0; n < c.tokens; ++n) {
          for (int d = 0; d < c.head_dim; ++d) {
            *at(0, b, h, n, d) = narrow(normal(random));
            *at(2, b, h, n, d) = narrow(normal(random));
          }
        }
        for (int n = 0; n < c.tokens; ++n) {
          const float factor = stretch(random);
          const int source = (n * 7 + 3) % c.tokens;
          for (int d = 0; d < c.head_dim; ++d) {
            const float noise = normal(random);
            *at(1, b, h, n, d) = narrow(c.length > 0 ? noise : factor * value(0, b, h, source, d) + 0.1f * noise);
          }
        }
        for (int n = c.first_long; n < c.last_long; ++n) {
          for (int d = 0; d < c.head_dim; ++d) *at(1, b, h, n, d) = narrow(8.0f * value(1, b, h, n, d));
        }
        if (c.length > 0) {
          for (int which = 0; which < 2; ++which) {
            for (int n = 0; n < c.tokens; ++n) {
              double sum = 0;
              for (int d = 0; d < c.head_dim; ++d) sum += std::pow(value(which, b, h, n, d), 2.0);
              for (int d = 0; d < c.head_dim; ++d) {
                *at(which, b, h, n, d) = narrow(value(which, b, h, n, d) * c.length / static_cast<float>(std::sqrt(sum)));
              }
            }
          }
        }
      }
    }
  }

  std::uint16_t* at(int which, int b, int h, int n, int d) {
    return packed + (((std::size_t(b) * c.tokens + n) * 3 + which) * c.heads + h) * c.head_dim + d;
  }
  float value(int which, int b, int h, int n, int d) { return widen(*at(which, b, h, n, d)); }
};

struct Result {
  std::vector<std::uint16_t> out;  // [B, N, H, D]
  std::vector<float> norms, logits, scores;
};

template <int D, int Warps>
void run_blocks(const esat::cuda::Forward& call, unsigned schedule) {
  for (int slice = 0; slice < call.batch * call.heads; ++slice) {
    constexpr int kKeys = 128 / (D / 8);
    for (int column = 0; column < ceil_div(call.tokens, kKeys); ++column) {
      emulation::run_block(column, slice, 128, 16, schedule, [&call] { fda_key_norms_thread<D>(call); });
    }
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
void run_blocks(const esat::cuda::Forward& call, const Case& c, unsigned schedule) {
  if (c.rows == 32) run_blocks<D, 2>(call, schedule);
  if (c.rows == 48) run_blocks<D, 3>(call, schedule);
  if (c.rows == 64) run_blocks<D, 4>(call, schedule);
  if (c.rows == 80) run_blocks<D, 5>(call, schedule);
}

constexpr int kNumTemplate = 9, kTemplateToken = 4;

Result run(Data& data, unsigned schedule = 1) {
  const Case& c = data.c;
  Result result;
  const std::size_t lines = std::size_t(c.batch) * c.heads * c.tokens;
  result.out.assign(lines * c.head_dim, 0x7fff);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  result.norms.assign(lines, nan);
  esat::cuda::Forward call{};
  call.query = data.at(0, 0, 0, 0, 0);
  call.key = data.at(1, 0, 0, 0, 0);
  call.value = data.at(2, 0, 0, 0, 0);
  call.out = result.out.data();
  const std::int64_t width = std::int64_t{c.heads} * c.head_dim;
  call.query_strides = call.key_strides = call.value_strides = {3 * width * c.tokens, c.head_dim, 3 * width};
  call.out_strides = {width * c.tokens, c.head_dim, width};
  call.key_norms = result.norms.data();  // [B, N, H]
  call.norm_strides = {std::int64_t{c.tokens} * c.heads, 1, c.heads};
  call.batch = c.batch;
  call.heads = c.heads;
  call.tokens = c.tokens;
  call.alpha = c.alpha;
  call.beta = c.beta;
  call.delta = c.delta;
  call.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  if (c.tokens > kNumTemplate) {
    result.logits.assign(lines, nan);
    result.scores.assign(std::size_t(c.batch) * (c.tokens - kNumTemplate), nan);
    call.row_logits = result.logits.data();
    call.scores = result.scores.data();
    call.num_template = kNumTemplate;
    call.template_token = kTemplateToken;
  }
  c.head_dim == 32 ? run_blocks<32>(call, c, schedule) : run_blocks<64>(call, c, schedule);
  if (call.scores != nullptr) {
    for (int b = 0; b < c.batch; ++b) {
      emulation::run_block(0, b, 128, c.heads * sizeof(float), schedule, [&call] { fda_scores_block(call); });
    }
  }
  return result;
}

struct Errors {
  double max = 0, sum = 0;
  long count = 0;
  void add(double error) {
    max = std::isnan(error) ? INFINITY : std::max(max, std::abs(error));
    sum += std::abs(error);
    ++count;
  }
  double mean() const { return sum / static_cast<double>(count); }
};

// The budget of esat_kernels/testing.py: twice the largest and 1.1 times the mean error of an ideal kernel that rounds P and the output.
void check(const Case& c) {
  Data data(c);
  const Result result = run(data);
  Errors ours, yardstick, scores;
  const double scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  std::vector<double> exact(c.tokens), wanted(std::size_t(c.batch) * c.tokens);
  for (int b = 0; b < c.batch; ++b) {
    for (int h = 0; h < c.heads; ++h) {
      for (int i = 0; i < c.tokens; ++i) {
        double largest = -INFINITY, sum = 0;
        for (int j = 0; j < c.tokens; ++j) {
          double product = 0, distance = 0;
          for (int d = 0; d < c.head_dim; ++d) {
            const double q = data.value(0, b, h, i, d), k = data.value(1, b, h, j, d);
            product += q * k;
            distance += (q - k) * (q - k);
          }
          exact[j] = scale * product + c.alpha * std::exp(-double{c.delta} * distance) - double{c.beta} * c.delta * distance;
          largest = std::max(largest, exact[j]);
        }
        for (double& logit : exact) sum += std::exp(logit - largest);
        for (double& logit : exact) logit = std::exp(logit - largest) / sum;
        if (i == kTemplateToken) {
          for (int j = 0; j < c.tokens; ++j) wanted[std::size_t(b) * c.tokens + j] += exact[j] / c.heads;
        }
        for (int d = 0; d < c.head_dim; ++d) {
          double value = 0;
          float rounded = 0;
          for (int j = 0; j < c.tokens; ++j) {
            const float v = data.value(2, b, h, j, d);
            value += exact[j] * v;
            rounded += widen(narrow(static_cast<float>(exact[j]))) * v;
          }
          yardstick.add(widen(narrow(rounded)) - value);
          ours.add(widen(result.out[((std::size_t(b) * c.tokens + i) * c.heads + h) * c.head_dim + d]) - value);
        }
      }
    }
    for (int j = kNumTemplate; j < c.tokens; ++j) {
      const double exact_score = wanted[std::size_t(b) * c.tokens + j];
      scores.add((result.scores[std::size_t(b) * (c.tokens - kNumTemplate) + j - kNumTemplate] - exact_score) / (exact_score + 1e-30));
    }
  }
  const double rounding = 1e-5 + 2e-7 * c.alpha + 2e-6 * c.length * c.length * (scale + c.beta * c.delta);
  const bool good =
      ours.max <= 2.0 * yardstick.max && ours.mean() <= 1.1 * yardstick.mean() && (scores.count == 0 || scores.max <= 4.0 * rounding);
  if (!good) {
    std::fprintf(stderr, "B %d H %d N %d D %d rows %d length %g: max %.3g of %.3g, mean %.3g of %.3g, scores %.3g\n", c.batch, c.heads,
                 c.tokens, c.head_dim, c.rows, c.length, ours.max, yardstick.max, ours.mean(), yardstick.mean(), scores.max);
  }
  CHECK(good);
}

void sizes() {
  for (const int tokens : {1, 15, 16, 17, 63, 64, 65, 79, 80, 81, 129, 190, 343})
    check({.tokens = tokens, .rows = 32, .seed = unsigned(tokens)});
  for (const int rows : {48, 64, 80}) check({.tokens = 153, .rows = rows});
  check({.tokens = 720, .rows = 80});
}

void head_dimensions_and_layouts() {
  for (const int rows : {32, 48, 64, 80}) check({.tokens = 97, .head_dim = 32, .rows = rows});
  check({.batch = 2, .heads = 3, .tokens = 40});
  check({.tokens = 81, .alpha = 0.0f, .beta = 0.0f});
  check({.tokens = 81, .alpha = 0.0f});
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
  const int warps = 8 * 2;  // of a case with 255 tokens and 32 rows, and two tiles for each
  CHECK_EQUAL(failed_votes({.tokens = 255}), 0L);
  CHECK_EQUAL(failed_votes({.tokens = 65, .beta = 0.0f, .delta = 0.6f, .seed = 6}),
              0L);  // also where the repeated last key's exponent would overflow
  // Sums that leave the range upwards: in every tile, in a half's last, and in its first, whose reference the usual ones then take over.
  CHECK(failed_votes({.tokens = 255, .length = 40.0f}) >= warps / 2);
  CHECK(failed_votes({.tokens = 255, .beta = 0.0f, .first_long = 192, .last_long = 255}) > 0);
  const long first = failed_votes({.tokens = 383, .beta = 0.0f, .first_long = 0, .last_long = 64});
  CHECK(first > 0 && first <= 24);  // once for each warp of the first halves
  CHECK(failed_votes({.tokens = 255, .alpha = 100.0f, .delta = 0.005f}) >= warps);
  // Downwards: the repulsion of long keys.
  CHECK(failed_votes({.tokens = 255, .beta = 1.0f, .delta = 0.5f, .length = 14.0f}) >= warps);
  // A factor beyond the exponent's range, of the start or of every tile.
  CHECK(failed_votes({.tokens = 255, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 30.0f}) >= warps);
  CHECK(failed_votes({.tokens = 255, .alpha = 0.1f, .beta = 0.0f, .delta = 2.0f, .length = 12.0f}) >= 2 * warps);
  for (const float delta : {3.0f, 3.5f, 4.0f, 4.5f, 5.0f}) check({.tokens = 255, .beta = 0.0f, .delta = delta});
}

void nan_goes_where_the_formula_takes_it() {
  for (const int which : {0, 1, 2}) {
    Data data({.tokens = 70});
    *data.at(which, 0, 0, 66, 5) = 0x7fc0;
    const Result result = run(data);
    for (int token = 0; token < 70; ++token) {
      for (int d = 0; d < 64; ++d) {
        const bool wanted = which == 1 || (which == 0 ? token == 66 : d == 5);
        CHECK_EQUAL(std::isnan(widen(result.out[token * 64 + d])), wanted);
      }
    }
  }
}

bool same(const Result& a, const Result& b) {
  return a.out == b.out && a.norms == b.norms && std::memcmp(a.scores.data(), b.scores.data(), 4 * a.scores.size()) == 0;
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
  nan_goes_where_the_formula_takes_it();
  any_order_of_the_threads_gives_the_same_bits();
  every_barrier_is_needed();
  return esat::testing::failures != 0;
}

// Calls of the CUDA attention kernels on the host, against float64: cases, the packed tensor, the error budget.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "emulated_gpu.h"
//
#include "attention/fda_steps.cuh"

namespace esat::testing {

using namespace sm80;

struct Case {
  int batch = 1, heads = 1, tokens = 64, head_dim = 64, rows = 32;
  float alpha = 1.0f, beta = 1.0f, delta = 0.02f;
  float length = 0.0f;                // of every query and key; 0: k = stretched, permuted q + noise, where every term matters
  int first_long = 0, last_long = 0;  // keys [first, last) are eight times as long
  unsigned seed = 1;
};

inline std::uint16_t narrow(float value) { return static_cast<std::uint16_t>(emulation::narrow(value)); }
inline float widen(std::uint16_t word) { return emulation::widen(word); }

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

inline constexpr int kNumTemplate = 9, kTemplateToken = 4;

// Runs the blocks of the forward kernel, in an order of the threads that the number draws.
using Forward = std::function<void(const cuda::Forward&, const Case&, unsigned)>;

inline Result run(const Forward& forward, Data& data, unsigned schedule = 1) {
  const Case& c = data.c;
  Result result;
  const std::size_t lines = std::size_t(c.batch) * c.heads * c.tokens;
  result.out.assign(lines * c.head_dim, 0x7fff);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  result.norms.assign(lines, nan);
  cuda::Forward call{};
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
  const int keys = 128 / (c.head_dim / 8);  // of a block of norms
  for (int slice = 0; slice < c.batch * c.heads; ++slice) {
    for (int column = 0; column < ceil_div(c.tokens, keys); ++column) {
      emulation::run_block(column, slice, 128, 16, schedule,
                           [&] { c.head_dim == 32 ? fda_key_norms_thread<32>(call) : fda_key_norms_thread<64>(call); });
    }
  }
  forward(call, c, schedule);
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
inline void check(const Forward& forward, const Case& c) {
  Data data(c);
  const Result result = run(forward, data);
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

inline void check_forces(const Forward& forward, int rows) {
  check(forward, {.tokens = 81, .rows = rows, .alpha = 0.0f, .beta = 0.0f});
  check(forward, {.tokens = 81, .rows = rows, .alpha = 0.0f});
  check(forward, {.tokens = 81, .rows = rows, .beta = 0.0f});
  check(forward, {.tokens = 81, .rows = rows, .delta = 0.0f});
  check(forward, {.tokens = 81, .rows = rows, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 8.0f});
}

// Checks the case and says how many votes of a warp failed: tiles that were done exactly, and warps that did not trust a factor.
inline long failed_votes(const Forward& forward, const Case& c) {
  emulation::failed_votes = 0;
  check(forward, c);
  return emulation::failed_votes;
}

// Every way into a tile that is done exactly. `tiles`: that the warps do of a case with 255 tokens, two each.
inline void check_exact_tiles(const Forward& forward, int rows, int tiles) {
  CHECK_EQUAL(failed_votes(forward, {.tokens = 255, .rows = rows}), 0L);
  // Sums that leave the range upwards: in every tile, in the last one alone, and in the first, whose reference the usual ones then take
  // over.
  CHECK(failed_votes(forward, {.tokens = 255, .rows = rows, .length = 40.0f}) >= tiles / 2);
  CHECK(failed_votes(forward, {.tokens = 255, .rows = rows, .beta = 0.0f, .first_long = 192, .last_long = 255}) > 0);
  const long first = failed_votes(forward, {.tokens = 383, .rows = rows, .beta = 0.0f, .first_long = 0, .last_long = 64});
  CHECK(first > 0 && first <= 24);  // once for each warp of those that see the first tile
  CHECK(failed_votes(forward, {.tokens = 255, .rows = rows, .alpha = 100.0f, .delta = 0.005f}) >= tiles);
  // Downwards: the repulsion of long keys.
  CHECK(failed_votes(forward, {.tokens = 255, .rows = rows, .beta = 1.0f, .delta = 0.5f, .length = 14.0f}) >= tiles);
  // A factor beyond the exponent's range, of the start or of every tile.
  CHECK(failed_votes(forward, {.tokens = 255, .rows = rows, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 30.0f}) >= tiles);
  CHECK(failed_votes(forward, {.tokens = 255, .rows = rows, .alpha = 0.1f, .beta = 0.0f, .delta = 2.0f, .length = 12.0f}) >= 2 * tiles);
  for (const float delta : {3.0f, 3.5f, 4.0f, 4.5f, 5.0f}) check(forward, {.tokens = 255, .rows = rows, .beta = 0.0f, .delta = delta});
}

// A NaN of q, k or v and an infinity of v, of one token, go where the formula takes them: to its row, to everything, to its column.
inline void check_what_is_not_finite(const Forward& forward, const Case& c, int place) {
  constexpr int kColumn = 5;
  constexpr std::uint16_t kNaN = 0x7fc0, kInfinity = 0x7f80, kMinusInfinity = 0xff80;
  const auto marked = [&](int which, std::uint16_t value, const auto& wanted, const auto& good) {
    Data data(c);
    *data.at(which, 0, 0, place, kColumn) = value;
    const Result result = run(forward, data);
    for (int token = 0; token < c.tokens; ++token) {
      for (int d = 0; d < c.head_dim; ++d) {
        const std::uint16_t found = result.out[std::size_t(token) * c.head_dim + d];
        CHECK(wanted(token, d) ? good(found) : std::isfinite(widen(found)));
      }
    }
  };
  const auto nan = [](std::uint16_t found) { return std::isnan(widen(found)); };
  marked(0, kNaN, [&](int token, int) { return token == place; }, nan);
  marked(1, kNaN, [](int, int) { return true; }, nan);
  const auto column = [](int, int d) { return d == kColumn; };
  marked(2, kNaN, column, nan);
  for (const std::uint16_t value : {kInfinity, kMinusInfinity}) {
    marked(2, value, column, [&](std::uint16_t found) { return found == value; });
  }
}

inline bool same(const Result& a, const Result& b) {
  return a.out == b.out && a.norms == b.norms && std::memcmp(a.scores.data(), b.scores.data(), 4 * a.scores.size()) == 0;
}

}  // namespace esat::testing

// The CUDA attention kernel's own source, run thread by thread on the host (emulated_gpu.h), against float64.

#include <cmath>
#include <cstdint>
#include <cstdio>
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
  float length = 0.0f;  // of every query and key; 0: k = stretched, permuted q + noise, where every term matters
  int polynomial = 0;
  unsigned seed = 1;
  bool half = false;  // float16 instead of bfloat16

  std::uint16_t narrow(float value) const { return static_cast<std::uint16_t>(half ? F16::narrow(value) : Bf16::narrow(value)); }
  float widen(std::uint16_t word) const { return half ? F16::widen(word) : Bf16::widen(word); }
};

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
            *at(0, b, h, n, d) = c.narrow(normal(random));
            *at(2, b, h, n, d) = c.narrow(normal(random));
          }
        }
        for (int n = 0; n < c.tokens; ++n) {
          const float factor = stretch(random);
          const int source = (n * 7 + 3) % c.tokens;
          for (int d = 0; d < c.head_dim; ++d) {
            const float noise = normal(random);
            *at(1, b, h, n, d) = c.narrow(c.length > 0 ? noise : factor * value(0, b, h, source, d) + 0.1f * noise);
          }
        }
        if (c.length > 0) {
          for (int which = 0; which < 2; ++which) {
            for (int n = 0; n < c.tokens; ++n) {
              double sum = 0;
              for (int d = 0; d < c.head_dim; ++d) sum += std::pow(value(which, b, h, n, d), 2.0);
              for (int d = 0; d < c.head_dim; ++d) {
                *at(which, b, h, n, d) = c.narrow(value(which, b, h, n, d) * c.length / static_cast<float>(std::sqrt(sum)));
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
  float value(int which, int b, int h, int n, int d) { return c.widen(*at(which, b, h, n, d)); }
};

struct Result {
  std::vector<std::uint16_t> out;  // [B, N, H, D]
  std::vector<float> lse, logits, scores;
};

template <class T, int D>
void run_blocks(const esat::cuda::Forward& call, int rows, unsigned schedule) {
  for (int slice = 0; slice < call.batch * call.heads; ++slice) {
    for (int column = 0; column < ceil_div(call.tokens, rows); ++column) {
      emulation::run_block(column, slice, kHalves * threads_per_half(rows), shared_bytes(D), schedule + 31 * column, [&call] {
        if (call.alpha > 0.0f) {
          fda_forward_block<T, D, true>(call);
        } else {
          fda_forward_block<T, D, false>(call);
        }
      });
    }
  }
}

template <class T>
void run_blocks(const esat::cuda::Forward& call, const Case& c, unsigned schedule) {
  if (c.head_dim == 32) run_blocks<T, 32>(call, c.rows, schedule);
  if (c.head_dim == 64) run_blocks<T, 64>(call, c.rows, schedule);
  if (c.head_dim == 96) run_blocks<T, 96>(call, c.rows, schedule);
  if (c.head_dim == 128) run_blocks<T, 128>(call, c.rows, schedule);
}

constexpr int kNumTemplate = 9, kTemplateToken = 4;

Result run(Data& data, unsigned schedule = 1) {
  const Case& c = data.c;
  emulated_polynomial_eighths = c.polynomial;
  Result result;
  const std::size_t lines = std::size_t(c.batch) * c.heads * c.tokens;
  result.out.assign(lines * c.head_dim, 0x7fff);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  result.lse.assign(lines, nan);
  esat::cuda::Forward call{};
  call.query = data.at(0, 0, 0, 0, 0);
  call.key = data.at(1, 0, 0, 0, 0);
  call.value = data.at(2, 0, 0, 0, 0);
  call.out = result.out.data();
  const std::int64_t width = std::int64_t{c.heads} * c.head_dim;
  call.query_strides = call.key_strides = call.value_strides = {3 * width * c.tokens, c.head_dim, 3 * width};
  call.out_strides = {width * c.tokens, c.head_dim, width};
  call.lse = result.lse.data();
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
  if (c.half) {
    run_blocks<F16>(call, c, schedule);
  } else {
    run_blocks<Bf16>(call, c, schedule);
  }
  if (call.scores != nullptr) {
    for (int b = 0; b < c.batch; ++b) {
      for (int column = 0; column < ceil_div(c.tokens - kNumTemplate, 128); ++column) {
        emulation::run_block(column, b, 128, 16, schedule, [&call] { fda_scores_thread(call); });
      }
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
  Errors ours, yardstick, lse, scores;
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
        lse.add(result.lse[(std::size_t(b) * c.heads + h) * c.tokens + i] - (largest + std::log(sum)));
        if (i == kTemplateToken) {
          for (int j = 0; j < c.tokens; ++j) wanted[std::size_t(b) * c.tokens + j] += exact[j] / c.heads;
        }
        for (int d = 0; d < c.head_dim; ++d) {
          double value = 0;
          float rounded = 0;
          for (int j = 0; j < c.tokens; ++j) {
            const float v = data.value(2, b, h, j, d);
            value += exact[j] * v;
            rounded += c.widen(c.narrow(static_cast<float>(exact[j]))) * v;
          }
          yardstick.add(c.widen(c.narrow(rounded)) - value);
          ours.add(c.widen(result.out[((std::size_t(b) * c.tokens + i) * c.heads + h) * c.head_dim + d]) - value);
        }
      }
    }
    for (int j = kNumTemplate; j < c.tokens; ++j) {
      scores.add(result.scores[std::size_t(b) * (c.tokens - kNumTemplate) + j - kNumTemplate] / wanted[std::size_t(b) * c.tokens + j] -
                 1.0);
    }
  }
  const double exponent_error = c.polynomial ? 2.2e-3 * c.alpha : 0.0;  // of the attraction's polynomial
  const double rounding = 1e-5 + 2e-6 * c.length * c.length * (scale + c.beta * c.delta);
  const bool good = ours.max <= 2.0 * yardstick.max && ours.mean() <= 1.1 * yardstick.mean() && lse.max <= rounding + exponent_error &&
                    (scores.count == 0 || scores.max <= 4.0 * rounding + 2.0 * exponent_error);
  if (!good) {
    std::fprintf(stderr,
                 "B %d H %d N %d D %d rows %d length %g poly %d half %d: max %.3g of %.3g, mean %.3g of %.3g, lse %.3g, scores %.3g\n",
                 c.batch, c.heads, c.tokens, c.head_dim, c.rows, c.length, c.polynomial, c.half, ours.max, yardstick.max, ours.mean(),
                 yardstick.mean(), lse.max, scores.max);
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
  for (const int head_dim : {32, 96, 128}) check({.tokens = 97, .head_dim = head_dim, .rows = 48});
  check({.batch = 2, .heads = 3, .tokens = 40});
  check({.tokens = 97, .half = true});
  check({.tokens = 81, .alpha = 0.0f, .beta = 0.0f});
  check({.tokens = 81, .alpha = 0.0f});
  check({.tokens = 81, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 8.0f});
  for (const bool half : {false, true}) check({.tokens = 81, .alpha = 0.1f, .beta = 0.1f, .delta = 0.125f, .length = 30.0f, .half = half});
}

void polynomial_share() {
  for (const int eighths : {4, 8}) {
    for (const int head_dim : {32, 64}) {
      for (const bool half : {false, true}) {
        check({.tokens = 153, .head_dim = head_dim, .rows = 48, .polynomial = eighths, .half = half});
      }
    }
  }
  for (float x = 0.0f; x > -140.0f; x -= 0.0137f) {
    const double exact = std::exp2(double{x});
    CHECK(std::abs(exp2_polynomial(x) - exact) <= 2.2e-3 * exact + 1.3e-38);
  }
}

void any_order_of_the_threads_gives_the_same_bits() {
  Data data({.tokens = 153, .rows = 48});
  const Result first = run(data, 1);
  for (unsigned schedule = 2; schedule < 8; ++schedule) {
    const Result again = run(data, schedule);
    CHECK(first.out == again.out);
    CHECK(first.lse == again.lse);
    CHECK(first.scores == again.scores);
  }
}

}  // namespace

int main() {
  sizes();
  head_dimensions_and_layouts();
  polynomial_share();
  any_order_of_the_threads_gives_the_same_bits();
  return esat::testing::failures != 0;
}

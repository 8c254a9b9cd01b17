#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/threads.h"
#include "elimination/elimination.h"

namespace esat {
namespace {

constexpr int64_t kParallelBytes = 1 << 18;  // fewer bytes are copied before a second thread is awake

// Keys whose order as integers is the scores' order.
uint32_t order_key(float score) {
  if (std::isnan(score)) return 0xffffffffU;
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 and 0 are equal scores
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

void select_row(const float* scores, int64_t n, int64_t keep, std::vector<uint32_t>& keys, std::vector<uint32_t>& order, int64_t* kept) {
  std::transform(scores, scores + n, keys.begin(), order_key);
  order = keys;
  std::nth_element(order.begin(), order.begin() + (keep - 1), order.end(), std::greater<>());
  const uint32_t threshold = order[keep - 1];
  int64_t equal_left = keep - std::count_if(keys.begin(), keys.end(), [&](uint32_t key) { return key > threshold; });
  for (int64_t i = 0; i < n; ++i) {
    if (keys[i] > threshold || (keys[i] == threshold && equal_left-- > 0)) *kept++ = i;
  }
}

void check_positions(const char* op, const int64_t* kept, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (kept[i] >= 0 && kept[i] < limit) continue;
    throw std::out_of_range(std::string(op) + ": kept must lie in [0, " + std::to_string(limit) + "), got " + std::to_string(kept[i]));
  }
}

int threads_for(int64_t bytes) { return bytes < kParallelBytes ? 1 : max_threads(); }

}  // namespace

void select_tokens(const SelectParams& p) {
  std::vector<uint32_t> keys(p.n);
  std::vector<uint32_t> order(p.n);
  for (int64_t b = 0; b < p.batch; ++b) select_row(p.scores + b * p.row_stride, p.n, p.keep, keys, order, p.kept + b * p.keep);
}

void gather_tokens(const GatherParams& p) {
  check_positions("gather_tokens", p.kept, p.batch * p.num_kept, p.num_search);
  const int64_t rows = p.num_template + p.num_kept;
  [[maybe_unused]] const int threads = threads_for(p.batch * rows * p.row_bytes);
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t source = row < p.num_template ? row : p.num_template + p.kept[b * p.num_kept + row - p.num_template];
      std::memcpy(p.out + (b * rows + row) * p.row_bytes, p.tokens + b * p.batch_stride + source * p.token_stride, p.row_bytes);
    }
  }
}

void scatter_tokens(const ScatterParams& p) {
  check_positions("scatter_tokens", p.kept, p.batch * p.num_kept, p.length);
  std::vector<int64_t> source(p.batch * p.length, -1);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < p.num_kept; ++i) source[b * p.length + p.kept[b * p.num_kept + i]] = i;
  }
  [[maybe_unused]] const int threads = threads_for(p.batch * p.length * p.row_bytes);
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t row = 0; row < p.length; ++row) {
      uint8_t* target = p.out + (b * p.length + row) * p.row_bytes;
      const int64_t from = source[b * p.length + row];
      if (from < 0) {
        std::memset(target, 0, p.row_bytes);
      } else {
        std::memcpy(target, p.tokens + b * p.batch_stride + from * p.token_stride, p.row_bytes);
      }
    }
  }
}

}  // namespace esat

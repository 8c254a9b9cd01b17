#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "elimination/elimination.h"

namespace {

std::mt19937 random_engine(11);

std::vector<int64_t> expected_positions(const float* row, int64_t n, int64_t keep) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    if (std::isnan(row[a]) || std::isnan(row[b])) return std::isnan(row[a]) && !std::isnan(row[b]);
    return row[a] > row[b];
  });
  order.resize(keep);
  std::sort(order.begin(), order.end());
  return order;
}

void selection() {
  std::uniform_int_distribution<int> level(-3, 3);
  for (int64_t n : {1, 2, 5, 16, 199, 576}) {
    for (int64_t keep : {int64_t{1}, (7 * n + 9) / 10, n}) {
      const int64_t stride = n + 3;
      std::vector<float> scores(stride + n);
      for (float& score : scores) score = static_cast<float>(level(random_engine)) / 3;
      scores[n / 2] = std::numeric_limits<float>::quiet_NaN();
      scores[stride] = -0.0f;
      std::vector<int64_t> kept(2 * keep, -1);
      esat::select_tokens({scores.data(), stride, 2, n, keep, kept.data()});
      for (int64_t b = 0; b < 2; ++b) {
        const std::vector<int64_t> row(kept.begin() + b * keep, kept.begin() + (b + 1) * keep);
        CHECK(row == expected_positions(scores.data() + b * stride, n, keep));
      }
    }
  }
}

std::vector<uint8_t> random_bytes(int64_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_engine());
  return bytes;
}

// Large enough for several threads when row_bytes is.
void there_and_back(int64_t row_bytes) {
  const int64_t batch = 2, num_template = 5, num_search = 300, num_kept = 210, gap = 7;
  const int64_t token_stride = row_bytes + gap;
  const int64_t batch_stride = (num_template + num_search) * token_stride;
  const std::vector<uint8_t> tokens = random_bytes(batch * batch_stride - gap);
  std::vector<int64_t> kept;
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<int64_t> all(num_search);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random_engine);
    kept.insert(kept.end(), all.begin(), all.begin() + num_kept);
  }
  const int64_t rows = num_template + num_kept;
  std::vector<uint8_t> compact(batch * rows * row_bytes, 0xcd);
  esat::gather_tokens(
      {tokens.data(), batch_stride, token_stride, row_bytes, batch, num_template, num_search, kept.data(), num_kept, compact.data()});
  std::vector<uint8_t> back(batch * num_search * row_bytes, 0xcd);
  esat::scatter_tokens({compact.data() + num_template * row_bytes, rows * row_bytes, row_bytes, row_bytes, batch, kept.data(), num_kept,
                        num_search, back.data()});
  bool good = true;
  for (int64_t b = 0; b < batch; ++b) {
    const auto kept_begin = kept.begin() + b * num_kept;
    for (int64_t i = 0; i < num_search; ++i) {
      const bool there = std::find(kept_begin, kept_begin + num_kept, i) != kept_begin + num_kept;
      const uint8_t* source = tokens.data() + b * batch_stride + (num_template + i) * token_stride;
      const uint8_t* row = back.data() + (b * num_search + i) * row_bytes;
      for (int64_t byte = 0; byte < row_bytes; ++byte) good = good && row[byte] == (there ? source[byte] : 0);
    }
    for (int64_t i = 0; i < num_template; ++i) {
      const uint8_t* source = tokens.data() + b * batch_stride + i * token_stride;
      good = good && std::equal(source, source + row_bytes, compact.data() + (b * rows + i) * row_bytes);
    }
  }
  CHECK(good);
}

void positions_outside() {
  const std::vector<uint8_t> tokens(6);
  std::vector<uint8_t> out(6, 0xcd);
  for (int64_t bad : {int64_t{-1}, int64_t{4}, std::numeric_limits<int64_t>::max()}) {
    const std::vector<int64_t> kept = {0, bad};
    std::string message;
    try {
      esat::gather_tokens({tokens.data(), 6, 1, 1, 1, 2, 4, kept.data(), 2, out.data()});
    } catch (const std::out_of_range& error) {
      message = error.what();
    }
    CHECK_EQUAL(message, "gather_tokens: kept must lie in [0, 4), got " + std::to_string(bad));
    message.clear();
    try {
      esat::scatter_tokens({tokens.data(), 2, 1, 1, 1, kept.data(), 2, 4, out.data()});
    } catch (const std::out_of_range& error) {
      message = error.what();
    }
    CHECK_EQUAL(message, "scatter_tokens: kept must lie in [0, 4), got " + std::to_string(bad));
  }
  CHECK(std::all_of(out.begin(), out.end(), [](uint8_t byte) { return byte == 0xcd; }));
}

}  // namespace

int main() {
  selection();
  for (int64_t row_bytes : {1, 3, 16, 3072}) there_and_back(row_bytes);
  positions_outside();
  return esat::testing::failures != 0;
}

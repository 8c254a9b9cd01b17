#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "decode/decode.h"

namespace {

struct Decoded {
  std::vector<float> box = std::vector<float>(8, -1.0f);
  std::vector<float> score = std::vector<float>(2, -1.0f);
  std::vector<float> weighted = std::vector<float>(2, -1.0f);
  std::vector<int64_t> index = std::vector<int64_t>(2, -1);
};

constexpr int64_t kSide = 4;
constexpr int64_t kCells = kSide * kSide;

Decoded decode(const std::vector<float>& score, const std::vector<float>* window) {
  std::vector<float> size(4 * kCells);
  std::vector<float> offset(4 * kCells);
  for (int64_t i = 0; i < 4 * kCells; ++i) {
    size[i] = static_cast<float>(i) / 100;
    offset[i] = static_cast<float>(i % 7) / 8;
  }
  Decoded out;
  esat::decode_maps({score.data(), size.data(), offset.data(), window == nullptr ? nullptr : window->data(), 2, kSide, out.box.data(),
                     out.score.data(), out.weighted.data(), out.index.data()});
  return out;
}

void first_maximum() {
  std::vector<float> score(2 * kCells, 0.25f);
  score[6] = score[9] = 0.75f;
  const Decoded plain = decode(score, nullptr);
  CHECK_EQUAL(plain.index[0], 6);
  CHECK_EQUAL(plain.index[1], 0);
  CHECK_EQUAL(plain.score[0], 0.75f);
  CHECK_EQUAL(plain.box[0], (2 + 6.0f / 8) / 4);  // column 2, offset map x at cell 6
  CHECK_EQUAL(plain.box[1], (1 + 1.0f / 8) / 4);  // row 1, offset map y at cell 16 + 6
  CHECK_EQUAL(plain.box[2], 0.06f);
  CHECK_EQUAL(plain.box[3], 0.22f);
}

void window_moves_the_maximum() {
  std::vector<float> score(2 * kCells, 0.25f);
  score[6] = score[9] = 0.75f;
  std::vector<float> window(kCells, 1.0f);
  window[6] = 0.25f;
  window[9] = 0.5f;
  const Decoded weighted = decode(score, &window);
  CHECK_EQUAL(weighted.index[0], 9);
  CHECK_EQUAL(weighted.score[0], 0.75f);
  CHECK_EQUAL(weighted.weighted[0], 0.375f);
}

void special_values() {
  std::vector<float> score(2 * kCells, -std::numeric_limits<float>::infinity());
  score[kCells + 5] = std::numeric_limits<float>::infinity();
  score[kCells + 7] = std::numeric_limits<float>::quiet_NaN();
  const Decoded out = decode(score, nullptr);
  CHECK_EQUAL(out.index[0], 0);
  CHECK_EQUAL(out.index[1], 0);
  CHECK(std::isnan(out.weighted[1]));
}

}  // namespace

int main() {
  first_maximum();
  window_moves_the_maximum();
  special_values();
  return esat::testing::failures != 0;
}

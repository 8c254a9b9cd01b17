// The crop against its definition: pad with black, cut, resize with OpenCV's fixed-point weights. Frames lie in memory of exactly their
// size, so that a sanitizer sees any read beyond them.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "common/bfloat16.h"
#include "crop/crop.h"

namespace {

using esat::CropParams;
using esat::Set;

std::mt19937 random_engine(7);

int64_t random_between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_engine); }

struct Frame {
  int64_t height;
  int64_t width;
  int64_t pixel_stride;
  int64_t row_stride;
  std::vector<uint8_t> bytes;
};

Frame make_frame(int64_t height, int64_t width, int64_t pixel_stride, int64_t row_gap) {
  Frame frame = {height, width, pixel_stride, width * pixel_stride + row_gap, {}};
  frame.bytes.resize((height - 1) * frame.row_stride + width * pixel_stride);
  for (uint8_t& byte : frame.bytes) byte = static_cast<uint8_t>(random_engine());
  return frame;
}

CropParams region_of(const Frame& frame, int64_t left, int64_t top, int64_t side, int64_t size) {
  return {frame.bytes.data(), frame.height, frame.width, frame.row_stride, frame.pixel_stride, left, top, side, size};
}

int padded_pixel(const CropParams& p, int64_t x, int64_t y, int channel) {
  const int64_t column = p.left + x;
  const int64_t row = p.top + y;
  const int64_t column_end = p.left + p.side >= p.frame_width ? p.frame_width - 1 : p.frame_width;
  const int64_t row_end = p.top + p.side >= p.frame_height ? p.frame_height - 1 : p.frame_height;
  if (column < 0 || column >= column_end || row < 0 || row >= row_end) return 0;
  return p.frame[row * p.row_stride + column * p.pixel_stride + channel];
}

struct Tap {
  int64_t first;
  int64_t second;
  int weight0;
  int weight1;
};

Tap tap(int64_t index, const CropParams& p, bool horizontal) {
  const double scale = 1.0 / (static_cast<double>(p.size) / static_cast<double>(p.side));
  float fraction = static_cast<float>((index + 0.5) * scale - 0.5);
  const int64_t position = static_cast<int64_t>(std::floor(fraction));
  fraction -= std::floor(fraction);
  Tap result = {position, position + 1, static_cast<int>(std::lrintf((1 - fraction) * 2048)),
                static_cast<int>(std::lrintf(fraction * 2048))};
  if (horizontal && (position < 0 || position >= p.side - 1)) result.weight0 = 2048, result.weight1 = 0;
  result.first = std::clamp<int64_t>(result.first, 0, p.side - 1);
  result.second = std::clamp<int64_t>(result.second, 0, p.side - 1);
  return result;
}

std::vector<uint8_t> expected_image(const CropParams& p) {
  std::vector<uint8_t> out;
  for (int64_t y = 0; y < p.size; ++y) {
    const Tap vertical = tap(y, p, false);
    for (int64_t x = 0; x < p.size; ++x) {
      const Tap horizontal = tap(x, p, true);
      for (int c = 0; c < 3; ++c) {
        const auto row = [&](int64_t at) {
          return padded_pixel(p, horizontal.first, at, c) * horizontal.weight0 +
                 padded_pixel(p, horizontal.second, at, c) * horizontal.weight1;
        };
        const int upper = ((row(vertical.first) >> 4) * vertical.weight0) >> 16;
        const int lower = ((row(vertical.second) >> 4) * vertical.weight1) >> 16;
        out.push_back(static_cast<uint8_t>((upper + lower + 2) >> 2));
      }
    }
  }
  return out;
}

std::vector<uint8_t> image(const CropParams& p, const Set& set) {
  std::vector<uint8_t> out(3 * p.size * p.size, 0xcd);
  esat::crop_image(p, out.data(), set.needs);
  return out;
}

std::vector<Set> paths() { return esat::sets_within(esat::detected_features()); }

void random_regions() {
  for (int round = 0; round < 200; ++round) {
    const Frame frame = make_frame(random_between(1, 40), random_between(1, 40), random_between(3, 4), random_between(0, 5));
    const int64_t side = random_between(1, 100);
    const CropParams p = region_of(frame, random_between(-side - 2, frame.width + 2), random_between(-side - 2, frame.height + 2), side,
                                   random_between(1, 70));
    const std::vector<uint8_t> expected = expected_image(p);
    for (const Set& set : paths()) CHECK(image(p, set) == expected);
  }
}

void smallest_frames_and_largest_outputs() {
  for (int64_t height = 1; height <= 3; ++height) {
    for (int64_t width = 1; width <= 3; ++width) {
      const Frame frame = make_frame(height, width, 3, 0);
      for (int64_t size : {int64_t{1}, int64_t{16}, int64_t{67}}) {
        const CropParams p = region_of(frame, -1, -1, 4, size);
        for (const Set& set : paths()) CHECK(image(p, set) == expected_image(p));
      }
    }
  }
  const Frame frame = make_frame(20, 30, 3, 0);
  const CropParams p = region_of(frame, 3, 2, 15, esat::kMaxCropSize);
  const std::vector<uint8_t> expected = image(p, esat::sets::portable);
  for (const Set& set : paths()) CHECK(image(p, set) == expected);
}

// Two planes: the crop of the frame that they become, each pixel with the chroma of its block.
void two_planes() {
  const esat::YuvMatrix m = {1220542, 1673527, -852492, -409993, 2116026};
  const auto byte = [](int64_t value) { return static_cast<uint8_t>(std::clamp<int64_t>(value >> 20, 0, 255)); };
  for (int round = 0; round < 100; ++round) {
    const Frame luma = make_frame(random_between(1, 40), random_between(1, 40), 1, random_between(0, 5));
    const Frame chroma = make_frame((luma.height + 1) / 2, (luma.width + 1) / 2, 2, random_between(0, 3));
    Frame rgb = make_frame(luma.height, luma.width, 3, 0);
    for (int64_t y = 0; y < luma.height; ++y) {
      for (int64_t x = 0; x < luma.width; ++x) {
        const uint8_t* pair = &chroma.bytes[y / 2 * chroma.row_stride + x / 2 * 2];
        const int64_t bright = int64_t{std::max(luma.bytes[y * luma.row_stride + x] - 16, 0)} * m.luma + (1 << 19);
        const int64_t u = pair[0] - 128;
        const int64_t v = pair[1] - 128;
        uint8_t* pixel = &rgb.bytes[y * rgb.row_stride + 3 * x];
        pixel[0] = byte(bright + v * m.v_red);
        pixel[1] = byte(bright + v * m.v_green + u * m.u_green);
        pixel[2] = byte(bright + u * m.u_blue);
      }
    }
    const int64_t side = random_between(1, 100);
    CropParams p =
        region_of(luma, random_between(-side - 2, luma.width + 2), random_between(-side - 2, luma.height + 2), side, random_between(1, 70));
    const std::vector<uint8_t> expected = expected_image(region_of(rgb, p.left, p.top, p.side, p.size));
    p.chroma = chroma.bytes.data();
    p.chroma_stride = chroma.row_stride;
    p.matrix = m;
    for (const Set& set : paths()) CHECK(image(p, set) == expected);
  }
}

// Rows of patches: the image, transposed; elements between two patches stay as they were.
void patches() {
  const Frame frame = make_frame(50, 60, 3, 1);
  for (int64_t size : {16, 48, 96}) {
    const CropParams p = region_of(frame, -9, 11, 44, size);
    const std::vector<uint8_t> pixels = expected_image(p);
    const int64_t grid = size / 16;
    for (const bool reverse : {false, true}) {
      for (const Set& set : paths()) {
        const int64_t stride = 768 + 5;
        std::vector<float> wide((grid * grid - 1) * stride + 768, -1.0f);
        std::vector<uint16_t> narrow(wide.size(), 0xffff);
        const float scale[3] = {0.5f, 0.017f, 1.0f / 255};
        const float bias[3] = {1.0f, -2.1f, 0.0f};
        esat::PatchParams to = {wide.data(), stride, false, reverse, {}, {}};
        std::memcpy(to.scale, scale, sizeof scale);
        std::memcpy(to.bias, bias, sizeof bias);
        esat::crop_patches(p, to, set.needs);
        to.out = narrow.data();
        to.bfloat16 = true;
        esat::crop_patches(p, to, set.needs);
        bool wide_good = true;
        bool narrow_good = true;
        for (int64_t i = 0; i < static_cast<int64_t>(wide.size()); ++i) {
          const int64_t patch = i / stride;
          const int64_t at = i % stride;
          if (at >= 768) {
            wide_good = wide_good && wide[i] == -1.0f;
            narrow_good = narrow_good && narrow[i] == 0xffff;
            continue;
          }
          const int64_t c = at / 256;
          const int64_t y = patch / grid * 16 + at % 256 / 16;
          const int64_t x = patch % grid * 16 + at % 16;
          const float value = std::fma(static_cast<float>(pixels[3 * (y * size + x) + (reverse ? 2 - c : c)]), scale[c], bias[c]);
          wide_good = wide_good && wide[i] == value;
          narrow_good = narrow_good && narrow[i] == esat::to_bfloat16(value);
        }
        CHECK(wide_good);
        CHECK(narrow_good);
      }
    }
  }
}

void bfloat16_rounds_ties_to_even() {
  CHECK_EQUAL(esat::to_bfloat16(1.0f), 0x3f80);
  CHECK_EQUAL(esat::to_bfloat16(1.00390625f), 0x3f80);  // half way to the next value: down to the even one
  CHECK_EQUAL(esat::to_bfloat16(1.01171875f), 0x3f82);  // half way: up to the even one
  CHECK_EQUAL(esat::to_bfloat16(-1.005f), 0xbf81);
  CHECK_EQUAL(esat::to_bfloat16(255.0f), 0x437f);
}

}  // namespace

int main() {
  random_regions();
  smallest_frames_and_largest_outputs();
  two_planes();
  patches();
  bfloat16_rounds_ties_to_even();
  return esat::testing::failures != 0;
}

// The kernels in a C++ program, without Python: cut a search region out of a frame, turn it into patches, and let them attend to each other
// with force-directed attention. Prints what it did and how far one row is from the formula (DESIGN.md); exit code 1 if it is too far.
//
//   cmake -S . -B build/ctest -DESAT_TESTS=ON && cmake --build build/ctest --target crop_and_attention
//   build/ctest/crop_and_attention

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "attention/attention.h"
#include "common/cpu_features.h"
#include "crop/crop.h"

namespace {

constexpr int64_t kWidth = 640, kHeight = 360, kSize = 128, kHeads = 12, kHeadDim = 64;
constexpr int64_t kTokens = (kSize / esat::kPatchSize) * (kSize / esat::kPatchSize), kDim = kHeads * kHeadDim;

// One output row of one head, in double precision: softmax(scale S + alpha exp(-r) - beta r) v with r = delta |q - k|^2.
std::vector<double> expected_row(const esat::attention::Problem& problem, const float* tokens, int64_t head, int64_t row) {
  const float* query = tokens + row * kDim + head * kHeadDim;
  std::vector<double> out(kHeadDim, 0.0);
  double sum = 0.0;
  for (int64_t token = 0; token < kTokens; ++token) {
    const float* key = tokens + token * kDim + head * kHeadDim;
    double product = 0.0, distance = 0.0;
    for (int64_t i = 0; i < kHeadDim; ++i) {
      product += static_cast<double>(query[i]) * key[i];
      distance += static_cast<double>(query[i] - key[i]) * (query[i] - key[i]);
    }
    const double r = problem.delta * distance;
    const double weight = std::exp(problem.scale * product + problem.alpha * std::exp(-r) - problem.beta * r);
    sum += weight;
    for (int64_t i = 0; i < kHeadDim; ++i) out[i] += weight * key[i];
  }
  for (double& value : out) value /= sum;
  return out;
}

}  // namespace

int main() {
  const esat::Features have = esat::detected_features();

  // A frame as a camera gives it: [height, width, 3] bytes, BGR.
  std::vector<uint8_t> frame(kHeight * kWidth * 3);
  for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i * 2654435761U >> 13);

  // A region of 200 x 200 pixels around the target, resized to 128 x 128, as patches [64, 768] of RGB values between -0.25 and 0.25.
  const esat::CropParams region = {frame.data(), kHeight, kWidth, 3 * kWidth, 3, 500, -40, 200, kSize};
  std::vector<float> tokens(kTokens * kDim);
  const float scale = 0.5f / 255;
  esat::crop_patches(region, {tokens.data(), kDim, false, true, {scale, scale, scale}, {-0.25f, -0.25f, -0.25f}}, have);

  // Attention of the patches among themselves: q = k = v, [1, 12, 64, 64], heads side by side in a token's row.
  std::vector<float> out(tokens.size());
  const esat::attention::Strides strides = {kTokens * kDim, kHeadDim, kDim};
  esat::attention::Forward call = {};
  call.problem = {esat::attention::Dtype::f32, 1, kHeads, kTokens, kHeadDim, 0.1f, 0.1f, 0.125f, 0.125f};
  call.query = call.key = call.value = tokens.data();
  call.query_strides = call.key_strides = call.value_strides = call.out_strides = strides;
  call.out = out.data();
  esat::attention::forward(call, have);

  const int64_t head = 5, row = 13;
  const std::vector<double> expected = expected_row(call.problem, tokens.data(), head, row);
  double error = 0.0;
  for (int64_t i = 0; i < kHeadDim; ++i) {
    error = std::max(error, std::fabs(expected[i] - out[row * kDim + head * kHeadDim + i]));
  }
  std::printf("%lld patches of a %lld x %lld frame, %lld heads: largest error of row %lld in head %lld: %.2g\n",
              static_cast<long long>(kTokens), static_cast<long long>(kWidth), static_cast<long long>(kHeight),
              static_cast<long long>(kHeads), static_cast<long long>(row), static_cast<long long>(head), error);
  return error < 1e-5 ? 0 : 1;
}

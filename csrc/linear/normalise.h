// LayerNorm: float32 rows in, rows of T in any layout out. Include a common/simd_*.h first.
#pragma once

#include "linear/epilogues.h"

namespace esat::linear {
namespace {

constexpr float kEpsilon = 1e-6F;  // of the backbone's LayerNorms

struct Moments {
  Simd::Vector mean;
  Simd::Vector scale;

  Simd::Vector apply(const float* x) const { return Simd::mul(Simd::sub(Simd::load(x), mean), scale); }
};

// Mean and 1 / sqrt(variance + eps) of one row, in two passes over the row (it stays in L1): no cancellation.
inline Moments moments(const float* row, int dim) {
  Simd::Vector low = Simd::zero();
  Simd::Vector high = low;
  for (int i = 0; i < dim; i += kPair) {
    low = Simd::add(low, Simd::load(row + i));
    high = Simd::add(high, Simd::load(row + i + Simd::kWidth));
  }
  const float mean = Simd::sum(Simd::add(low, high)) / static_cast<float>(dim);
  const Simd::Vector centre = Simd::set1(mean);
  low = Simd::zero();
  high = low;
  for (int i = 0; i < dim; i += kPair) {
    const Simd::Vector a = Simd::sub(Simd::load(row + i), centre);
    const Simd::Vector b = Simd::sub(Simd::load(row + i + Simd::kWidth), centre);
    low = Simd::fma(a, a, low);
    high = Simd::fma(b, b, high);
  }
  const float variance = Simd::sum(Simd::add(low, high)) / static_cast<float>(dim);
  return {centre, Simd::set1(1.0F / __builtin_sqrtf(variance + kEpsilon))};
}

template <class T>
void normalise(const float* x, int rows, int dim, T* out, const Layout& layout) {
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<std::ptrdiff_t>(r) * dim;
    const Moments norm = moments(row, dim);
    T* to = out + layout.at(r);
    for (int s = 0; s < dim / kTileDepth<T>; ++s, row += kTileDepth<T>, to += layout.step) {
      for (int i = 0; i < kTileDepth<T>; i += kPair) store_pair(to + i, norm.apply(row + i), norm.apply(row + i + Simd::kWidth));
    }
  }
}

template <class T>
void normalise_to_rows(const float* x, int rows, int dim, const float* gain, const float* bias, const std::int32_t* place, T* out) {
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<std::ptrdiff_t>(r) * dim;
    const Moments norm = moments(row, dim);
    T* to = out + static_cast<std::ptrdiff_t>(place[r]) * dim;
    const auto value = [&](int i) { return Simd::fma(norm.apply(row + i), Simd::load(gain + i), Simd::load(bias + i)); };
    for (int i = 0; i < dim; i += kPair) store_pair(to + i, value(i), value(i + Simd::kWidth));
  }
}

}  // namespace
}  // namespace esat::linear

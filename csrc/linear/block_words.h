// int8 products on plain AVX2, which multiplies no four bytes at once without saturating: activations and weights as words of 16 bits,
// whose products are added in pairs to 32 bits, exactly.
//
// Activations are widened once for a whole product, weights as they are loaded: 16 bytes of a packed weight are four columns, four
// inputs each, so a lane of 64 bits holds two sums of one column until the end of the inner dimension.
#pragma once

#include <vector>

#include "linear/operand.h"
#include "linear/prefetch.h"

namespace esat::linear {
namespace {

// Rows of words, as blocks read them. Valid until the thread makes the next.
template <>
struct Operand<int8> {
  const float* first;
  std::ptrdiff_t stride;

  explicit Operand(const Product<int8>& product) : stride(product.steps * kTileDepth<int8> / 2) {
    static thread_local std::vector<float> words;
    const std::size_t size = static_cast<std::size_t>(product.rows) * stride;
    if (words.size() < size) words.resize(size);
    first = words.data();
    float* to = words.data();
    for (int r = 0; r < product.rows; ++r) {
      for (int step = 0; step < product.steps; ++step) {
        const std::uint8_t* from = product.activation + r * product.row_stride + product.step_offset[step];
        for (int k = 0; k < kTileDepth<int8>; k += 16, to += 8) {
          const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k)));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), wide);
        }
      }
    }
  }
};

template <>
constexpr int kBlockColumns<int8> = 8;

// Sums of Rows rows and the eight columns from `column` on -> sums [Rows][kPanel], integers in the place of floats.
template <class T, int Rows>
  requires std::is_same_v<T, int8>
void block(const float* activation, std::ptrdiff_t row_stride, const Product<int8>& product, const float* panel, int column,
                 float* sums, Prefetch& prefetch, int lines_per_step) {
  constexpr int kFours = kTileDepth<int8> / 4;  // of inputs, in a step
  constexpr int kHalf = kPanel / 2;
  const int8* weight = reinterpret_cast<const int8*>(panel) + column / kHalf * kFours * kHalf * 4 + column % kHalf * 4;
  const auto words = [](const int8* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); };
  using Integers = int __attribute__((vector_size(32)));  // not __m256i: converting between the two costs the compiler registers
  Integers low[Rows], high[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) low[r] = high[r] = Integers{};
  for (int step = 0; step < product.steps; ++step, weight += kPanelStep<int8>, activation += kTileDepth<int8> / 2) {
#pragma GCC unroll 2
    for (int k = 0; k < kFours; ++k) {
      const __m256i first = words(weight + k * kHalf * 4), second = words(weight + k * kHalf * 4 + 16);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const __m256i four = _mm256_castpd_si256(_mm256_broadcast_sd(reinterpret_cast<const double*>(activation + r * row_stride + 2 * k)));
        low[r] += reinterpret_cast<Integers>(_mm256_madd_epi16(four, first));
        high[r] += reinterpret_cast<Integers>(_mm256_madd_epi16(four, second));
      }
    }
    prefetch.lines(lines_per_step);
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {  // columns 0 1 4 5 2 3 6 7
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_hadd_epi32(reinterpret_cast<__m256i>(low[r]), reinterpret_cast<__m256i>(high[r])), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + r * kPanel), pairs);
  }
}

}  // namespace
}  // namespace esat::linear

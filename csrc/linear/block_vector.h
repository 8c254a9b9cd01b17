// A block of the product on x86's vectors: up to kBlockRows rows and two vectors of columns stay in registers over the whole inner
// dimension; each step loads two vectors of the weight and broadcasts one value (for bf16 a pair, for int8 four) of each row.
#pragma once

#include "common/add_products.h"
#include "linear/prefetch.h"

namespace esat::linear {
namespace {

// How T is multiplied: a lane of a vector holds one value, or two or four whose products are all added.
template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  static Simd::Vector mac(Simd::Vector sum, float a, const float* b) { return Simd::fma(Simd::set1(a), Simd::load(b), sum); }
};
#if defined(__AVX512BF16__)
template <>
struct Lanes<bf16> {
  static Simd::Vector mac(Simd::Vector sum, float a, const float* b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_ps(a)), reinterpret_cast<__m512bh>(_mm512_loadu_ps(b)));
  }
};
#endif
#if defined(__AVX512F__) || defined(__AVXVNNI__)
constexpr int kPairLimit = kNoPairLimit;
#else
constexpr int kPairLimit = 128;  // 255 x 128 is a word
#endif
// The integer sums of int8 lie in vectors of floats.
#if defined(__AVX512VNNI__)
template <>
struct Lanes<int8> {
  static Simd::Vector mac(Simd::Vector sum, float a, const float* b) {
    const __m512i four = _mm512_castps_si512(_mm512_set1_ps(a));
    return _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum), four, _mm512_loadu_si512(b)));
  }
};
#elif defined(__AVXVNNI__)
template <>
struct Lanes<int8> {
  static Simd::Vector mac(Simd::Vector sum, float a, const float* b) {
    const __m256i four = _mm256_castps_si256(_mm256_set1_ps(a)), weight = _mm256_castps_si256(_mm256_loadu_ps(b));
    return _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(_mm256_castps_si256(sum), four, weight));
  }
};
#elif defined(__AVX2__) && !defined(__AVX512F__)
// Two products are added in 16 bits first, which kPairLimit keeps from saturating.
template <>
struct Lanes<int8> {
  static Simd::Vector mac(Simd::Vector sum, float a, const float* b) {
    const __m256i four = _mm256_castps_si256(_mm256_set1_ps(a)), weight = _mm256_castps_si256(_mm256_loadu_ps(b));
    const __m256i quads = _mm256_madd_epi16(_mm256_maddubs_epi16(four, weight), _mm256_set1_epi16(1));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), quads));
  }
};
#endif

template <class T>
constexpr int kBlockColumns = 2 * Simd::kWidth;

#if defined(__AVX2__) && !defined(__AVX512F__)
// A step of float32: sums += a [Rows][kTileDepth] * weight [kTileDepth][kPanel / 2], two vectors of it.
template <int Rows>
inline void add_step(const float* a, std::ptrdiff_t row_stride, const float* weight, Simd::Vector (&sums)[Rows][2]) {
  const float* const end = a + kTileDepth<float>;
#pragma GCC unroll 1
  for (const float* far = a + 3 * row_stride; a != end; a += kUnrolled, far += kUnrolled, weight += kUnrolled * (kPanel / 2)) {
    asm("" : "+r"(far));  // two pointers and a stride reach six rows; g++ would make six pointers
#pragma GCC unroll 8
    for (int k = 0; k < kUnrolled; ++k) {
      const float* line = weight + k * (kPanel / 2);
      const Simd::Vector b[2] = {Simd::load(line), Simd::load(line + Simd::kWidth)};
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) add_products(sums[r], (r < 3 ? a + r * row_stride : far + (r - 3) * row_stride) + k, b);
    }
  }
}
#endif

// Sums of Rows rows and the 2 Simd::kWidth columns from `column` on -> sums [Rows][kPanel]. Addresses in units of 32 bits.
template <class T, int Rows>
void block(const float* activation, std::ptrdiff_t row_stride, const Product<T>& product, const float* weight, int column, float* sums,
           Prefetch& prefetch, int lines_per_step) {
  constexpr int kLane = sizeof(float) / sizeof(T);
  constexpr int kDepth = kTileDepth<T> / kLane;
  constexpr int kHalf = kPanel / 2;
  // Two vectors are neighbours within a half of the panel, or the same lanes of both halves.
  constexpr int kSecond = Simd::kWidth == kHalf ? kDepth * kHalf : Simd::kWidth;
  weight += column / kHalf * kDepth * kHalf + column % kHalf;
  Simd::Vector all[Rows][2];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) all[r][0] = all[r][1] = Simd::zero();
  for (int step = 0; step < product.steps; ++step, weight += kPanelStep<T> / kLane) {
    const float* a = activation + product.step_offset[step] / kLane;
    if constexpr (kUnrolled > 1 && std::is_same_v<T, float>) {
      add_step(a, row_stride, weight, all);
    } else {
#pragma GCC unroll 1  // g++ would unroll a block of one row as a whole, more than registers hold
      for (int k = 0; k < kDepth; ++k) {
        const float* b = weight + k * kHalf;
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          const float value = a[r * row_stride + k];
          all[r][0] = Lanes<T>::mac(all[r][0], value, b);
          all[r][1] = Lanes<T>::mac(all[r][1], value, b + kSecond);
        }
      }
    }
    prefetch.lines(lines_per_step);
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    Simd::store(sums + r * kPanel, all[r][0]);
    Simd::store(sums + r * kPanel + Simd::kWidth, all[r][1]);
  }
}

}  // namespace
}  // namespace esat::linear

// Rows to eight bits, and exact sums of their products back to float32. Include a common/simd_*.h first: not the portable one.
#pragma once

#include <algorithm>

#include "linear/normalise.h"

namespace esat::linear {
namespace {

#if defined(__aarch64__)

inline int nearest(float x) { return vcvtns_s32_f32(x); }

inline void store_u8(std::uint8_t* out, float32x4_t rounded_to, int zero) {
  const uint16x4_t words = vqmovun_s32(vaddq_s32(vcvtnq_s32_f32(rounded_to), vdupq_n_s32(zero)));
  vst1_lane_u32(reinterpret_cast<std::uint32_t*>(out), vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
}

// SDOT multiplies signed bytes: activations that are 128 too small (block_neon.h), which is taken out with the zero point.
#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int kActivationShift = 0;
#else
constexpr int kActivationShift = 128;
#endif

inline float32x4_t exact(const float* sums, int zero, const std::int32_t* column_sum) {
  const int32x4_t integers = vreinterpretq_s32_f32(vld1q_f32(sums));
  return vcvtq_f32_s32(vmlsq_n_s32(integers, vld1q_s32(column_sum), zero - kActivationShift));
}

inline float32x4_t load_wide(const bf16* x) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x), 16)); }

#elif defined(__AVX512F__)

inline int nearest(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }

inline void store_u8(std::uint8_t* out, __m512 rounded_to, int zero) {
  const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(rounded_to), _mm512_set1_epi32(zero));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtusepi32_epi8(_mm512_max_epi32(q, _mm512_setzero_si512())));
}

// The integers behind `sums`, less zero * column_sum, as floats.
inline __m512 exact(const float* sums, int zero, const std::int32_t* column_sum) {
  const __m512i shift = _mm512_mullo_epi32(_mm512_set1_epi32(zero), _mm512_loadu_si512(column_sum));
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(sums), shift));
}

inline __m512 load_wide(const bf16* x) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

#else

inline int nearest(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }

inline void store_u8(std::uint8_t* out, __m256 rounded_to, int zero) {
  const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(rounded_to), _mm256_set1_epi32(zero));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
}

inline __m256 exact(const float* sums, int zero, const std::int32_t* column_sum) {
  const auto integers = [](const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); };
  const __m256i shift = _mm256_mullo_epi32(_mm256_set1_epi32(zero), integers(column_sum));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(integers(sums), shift));
}

#endif

inline Simd::Vector load_wide(const float* x) { return Simd::load(x); }

// value(i) are kWidth values of the row from column i on. Zero is inside the range, so that it is exact.
template <class Value>
inline void quantise_row(const Value& value, int dim, const QuantisedRows& out, int row) {
  constexpr int kWidth = Simd::kWidth;
  Simd::Vector low = Simd::zero(), high = low, finite = low;
  for (int i = 0; i < dim; i += kWidth) {
    const Simd::Vector x = value(i);
    low = Simd::min(low, x);
    high = Simd::max(high, x);
    finite = Simd::fma(x, Simd::zero(), finite);  // minimum and maximum lose a NaN: this sum becomes one, also by an infinity
  }
  alignas(64) float lows[kWidth], highs[kWidth];
  Simd::store(lows, low);
  Simd::store(highs, high);
  const float nothing = Simd::sum(finite);
  const float least = *std::min_element(lows, lows + kWidth);
  const float width = *std::max_element(highs, highs + kWidth) - least;
  const float steps = width > 1e-35F && nothing == 0 ? 255.0F / width : 0.0F;  // finite
  const int zero = nothing == 0 ? nearest(-least * steps) : 0;
  const Simd::Vector factor = Simd::set1(steps);
  std::uint8_t* to = out.values + out.layout.at(row);
  for (int i = 0; i < dim; i += kTileDepth<int8>, to += out.layout.step) {
    for (int j = 0; j < kTileDepth<int8>; j += kWidth) store_u8(to + j, Simd::mul(value(i + j), factor), zero);
  }
  out.scale[row] = {width / 255.0F + nothing, zero};
}

inline void normalise_quantised(const float* x, int rows, int dim, const QuantisedRows& out) {
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<std::ptrdiff_t>(r) * dim;
    const Moments norm = moments(row, dim);
    quantise_row([&](int i) { return norm.apply(row + i); }, dim, out, r);
  }
}

template <class T>
void quantise(const T* x, int rows, int dim, const QuantisedRows& out) {
  for (int r = 0; r < rows; ++r) {
    const T* row = x + static_cast<std::ptrdiff_t>(r) * dim;
    quantise_row([&](int i) { return load_wide(row + i); }, dim, out, r);
  }
}

// The integer sums of a row and panel, in the place of floats.
struct IntegerSums {
  const float* at;
  Simd::Vector row_scale;
  int zero;
  const float* column_scale;
  const std::int32_t* column_sum;

  IntegerSums(const Product<int8>& product, const float* sums, int row, int panel)
      : at(sums),
        row_scale(Simd::set1(product.row_scale[row].scale)),
        zero(product.row_scale[row].zero),
        column_scale(product.column_scale + panel * kPanel),
        column_sum(product.column_sum + panel * kPanel) {}

  Simd::Vector plus(int i, Simd::Vector x) const {
    return Simd::fma(Simd::mul(exact(at + i, zero, column_sum + i), row_scale), Simd::load(column_scale + i), x);
  }
};

inline IntegerSums sums_of(const Product<int8>& product, const float* sums, int row, int panel) { return {product, sums, row, panel}; }
template <class W>
FloatSums sums_of(const Product<W>&, const float* sums, int, int) {
  return {sums};
}

}  // namespace
}  // namespace esat::linear

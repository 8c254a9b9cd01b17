// The matrix product on vector units. Include a common/simd_*.h first.
//
// A block of up to kBlockRows rows and two vectors of columns stays in registers over the whole inner dimension: each step loads two
// vectors of the weight and broadcasts one value (for bf16 a pair) of each row. Blocks go down the rows of a chunk for one panel after the
// other, so that the panel's columns and the chunk's activations come from L2. The sum of a row runs over the inner dimension in order,
// whatever block it lies in.
#pragma once

#include <utility>

#include "linear/quantise.h"

namespace esat::linear {
namespace {

template <class T>
constexpr int kChunkRows = 768 / sizeof(T);  // at 768 columns 576 KB, which L2 holds

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
constexpr int kWeightLimit = 127;
#else
constexpr int kWeightLimit = 63;
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
// Pairs of products are added in 16 bits first: 2 * 255 * 64 does not saturate.
template <>
struct Lanes<int8> {
  static Simd::Vector mac(Simd::Vector sum, float a, const float* b) {
    const __m256i four = _mm256_castps_si256(_mm256_set1_ps(a)), weight = _mm256_castps_si256(_mm256_loadu_ps(b));
    const __m256i quads = _mm256_madd_epi16(_mm256_maddubs_epi16(four, weight), _mm256_set1_epi16(1));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), quads));
  }
};
#endif

struct Prefetch {
  const char* at;
  const char* end;

  void lines(int count) {
    for (int i = 0; i < count && at < end; ++i, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

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
  Simd::Vector low[Rows], high[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) low[r] = high[r] = Simd::zero();
  for (int step = 0; step < product.steps; ++step, weight += kPanelStep<T> / kLane) {
    const float* a = activation + product.step_offset[step] / kLane;
    for (int k = 0; k < kDepth; ++k) {
      const float* b = weight + k * kHalf;
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const float value = a[r * row_stride + k];
        low[r] = Lanes<T>::mac(low[r], value, b);
        high[r] = Lanes<T>::mac(high[r], value, b + kSecond);
      }
    }
    prefetch.lines(lines_per_step);
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    Simd::store(sums + r * kPanel, low[r]);
    Simd::store(sums + r * kPanel + Simd::kWidth, high[r]);
  }
}

template <class T>
using BlockFunction = decltype(&block<T, 1>);

template <class T, int... Height>
BlockFunction<T> block_of(int rows, std::integer_sequence<int, Height...>) {
  static constexpr BlockFunction<T> kOf[] = {block<T, Height + 1>...};
  return kOf[rows - 1];
}

template <class T, class Epilogue>
void multiply(const Product<T>& product, const Epilogue& epilogue) {
  constexpr int kLane = sizeof(float) / sizeof(T);
  alignas(64) float sums[kBlockRows * kPanel];
  const std::ptrdiff_t row_stride = product.row_stride / kLane;
  const std::ptrdiff_t panel_bytes = product.steps * static_cast<std::ptrdiff_t>(kPanelStep<T> * sizeof(T));
  const int chunks = (product.rows + kChunkRows<T> - 1) / kChunkRows<T>;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int first = product.rows * chunk / chunks;
    const int rows = product.rows * (chunk + 1) / chunks - first;
    const int blocks = (rows + kBlockRows - 1) / kBlockRows;
    const int calls = blocks * (kPanel / kPair);
    const int lines_per_step = (kPanelStep<T> * static_cast<int>(sizeof(T)) / 64 + calls - 1) / calls;
    for (int panel = 0; panel < product.panels; ++panel) {
      const T* weight = product.weight + panel * product.panel_stride;
      const void* next = panel + 1 < product.panels ? weight + product.panel_stride
                         : chunk + 1 < chunks       ? product.weight
                                                    : product.next_weight;
      const char* line = static_cast<const char*>(next);
      Prefetch prefetch{line, next == nullptr ? line : line + panel_bytes};
      for (int b = 0; b < blocks; ++b) {
        const int row = first + rows * b / blocks;  // heights differ by at most one
        const int height = first + rows * (b + 1) / blocks - row;
        const auto run = block_of<T>(height, std::make_integer_sequence<int, kBlockRows>{});
        const float* activation = reinterpret_cast<const float*>(product.activation) + row * row_stride;
        for (int column = 0; column < kPanel; column += kPair) {
          run(activation, row_stride, product, reinterpret_cast<const float*>(weight), column, sums + column, prefetch, lines_per_step);
        }
        for (int r = 0; r < height; ++r) finish_row(epilogue, sums_of(product, sums + r * kPanel, row + r, panel), row + r, panel);
      }
    }
  }
}

inline void nothing() {}

template <class T>
constexpr Kernels<T> vector_kernels() {
  return {1,
          rows_layout<T>,
          nothing,
          nothing,
          multiply<T, StoreRows<T>>,
          multiply<T, StoreGelu<T>>,
          multiply<T, AddRows>,
          multiply<T, StoreReluRows<T>>,
          normalise<T>,
          normalise_to_rows<T>};
}

template <class T>
constexpr Int8Kernels<T> vector_int8_kernels() {
  return {kWeightLimit,        rows_layout<int8>, multiply<int8, StoreRows<T>>, multiply<int8, StoreGelu<T>>, multiply<int8, AddRows>,
          normalise_quantised, quantise<T>};
}

}  // namespace
}  // namespace esat::linear

// A block of the product on NEON. A lane of 32 bits holds one value along the inner dimension, two for bf16 or four for int8.
//
// float, and int8 by SDOT: rows x 16 columns. Four lanes of each row are loaded at once, and the instructions take one of them by its
// number, so that nothing is broadcast.
// bf16 and int8 by BFMMLA and USMMLA: the instruction multiplies two rows and two columns of two lanes, twice the work of a vector; rows
// x 8 columns as tiles of 2 x 2. Two rows' lanes are loaded into the halves of a vector, columns are zipped from neighbouring lanes.
#pragma once

#include "linear/prefetch.h"

namespace esat::linear {
namespace {

#if defined(__ARM_FEATURE_MATMUL_INT8)
template <class T>
constexpr bool kTiles = sizeof(T) < 4;
#else
template <class T>
constexpr bool kTiles = false;
#endif

constexpr int kPairLimit = kNoPairLimit;

template <class T>
constexpr int kBlockColumns = kTiles<T> ? 8 : 16;

// sum + a[Lane] * b, lane by lane of b and sum. Integer sums lie in vectors of floats.
template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  static float32x4_t row(const float* a) { return vld1q_f32(a); }
  template <int Lane>
  static float32x4_t mac(float32x4_t sum, float32x4_t b, float32x4_t a) {
    return vfmaq_laneq_f32(sum, b, a, Lane);
  }
};
#if defined(__ARM_FEATURE_DOTPROD)
template <>
struct Lanes<int8> {
  // Unsigned activations less 128.
  static float32x4_t row(const float* a) { return vreinterpretq_f32_u8(veorq_u8(vreinterpretq_u8_f32(vld1q_f32(a)), vdupq_n_u8(0x80))); }
  template <int Lane>
  static float32x4_t mac(float32x4_t sum, float32x4_t b, float32x4_t a) {
    const int8x16_t weight = vreinterpretq_s8_f32(b), activation = vreinterpretq_s8_f32(a);
    return vreinterpretq_f32_s32(vdotq_laneq_s32(vreinterpretq_s32_f32(sum), weight, activation, Lane));
  }
};
#endif

template <class T, int Lane, int Rows, int Vectors>
inline void add_lane(float32x4_t (&sum)[Rows][Vectors], const float32x4_t (&row)[Rows], const float* b) {
#pragma GCC unroll 4
  for (int n = 0; n < Vectors; ++n) {
    const float32x4_t weight = vld1q_f32(b + 4 * n);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) sum[r][n] = Lanes<T>::template mac<Lane>(sum[r][n], weight, row[r]);
  }
}

template <class T, int Rows>
void lanes_block(const float* activation, std::ptrdiff_t row_stride, const Product<T>& product, const float* weight, float* sums,
                 Prefetch& prefetch, int lines_per_step) {
  constexpr int kLane = sizeof(float) / sizeof(T);
  constexpr int kDepth = kTileDepth<T> / kLane;
  constexpr int kHalf = kPanel / 2, kVectors = kHalf / 4;
  float32x4_t sum[Rows][kVectors] = {};
  for (int step = 0; step < product.steps; ++step, weight += kPanelStep<T> / kLane) {
    const float* a = activation + product.step_offset[step] / kLane;
    for (int k = 0; k < kDepth; k += 4) {
      float32x4_t row[Rows];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) row[r] = Lanes<T>::row(a + r * row_stride + k);
      const float* b = weight + k * kHalf;
      add_lane<T, 0>(sum, row, b);
      add_lane<T, 1>(sum, row, b + kHalf);
      add_lane<T, 2>(sum, row, b + 2 * kHalf);
      add_lane<T, 3>(sum, row, b + 3 * kHalf);
    }
    prefetch.lines(lines_per_step);
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) vst1q_f32(sums + r * kPanel + 4 * n, sum[r][n]);
  }
}

// sum[2 i + j] + a's row i times b's column j.
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline float32x4_t multiply_tile(bf16, float32x4_t sum, float32x4_t a, float32x4_t b) {
  return vbfmmlaq_f32(sum, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
}
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
inline float32x4_t multiply_tile(int8, float32x4_t sum, float32x4_t a, float32x4_t b) {
  const int32x4_t integers = vreinterpretq_s32_f32(sum);
  return vreinterpretq_f32_s32(vusmmlaq_s32(integers, vreinterpretq_u8_f32(a), vreinterpretq_s8_f32(b)));
}
#endif

template <class T, int Rows>
void tiles_block(const float* activation, std::ptrdiff_t row_stride, const Product<T>& product, const float* weight, float* sums,
                 Prefetch& prefetch, int lines_per_step) {
  constexpr int kLane = sizeof(float) / sizeof(T);
  constexpr int kDepth = kTileDepth<T> / kLane;
  constexpr int kHalf = kPanel / 2;
  constexpr int kPairs = (Rows + 1) / 2, kColumnPairs = 4;
  constexpr std::ptrdiff_t kLast = Rows - 1;  // an odd last row is its own partner
  float32x4_t sum[kPairs][kColumnPairs] = {};
  for (int step = 0; step < product.steps; ++step, weight += kPanelStep<T> / kLane) {
    const float* a = activation + product.step_offset[step] / kLane;
    for (int k = 0; k < kDepth; k += 2) {
      const float *b = weight + k * kHalf, *next = b + kHalf;
      float32x4_t column[kColumnPairs];
#pragma GCC unroll 2
      for (int n = 0; n < kColumnPairs; n += 2) {
        const float32x4_t first = vld1q_f32(b + 2 * n), second = vld1q_f32(next + 2 * n);
        column[n] = vzip1q_f32(first, second);
        column[n + 1] = vzip2q_f32(first, second);
      }
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) {
        const float* top = a + 2 * p * row_stride + k;
        const float* bottom = a + (p + 1 < kPairs ? 2 * p + 1 : kLast) * row_stride + k;
        const float32x4_t row = vcombine_f32(vld1_f32(top), vld1_f32(bottom));
#pragma GCC unroll 4
        for (int n = 0; n < kColumnPairs; ++n) sum[p][n] = multiply_tile(T{}, sum[p][n], row, column[n]);
      }
    }
    prefetch.lines(lines_per_step);
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
    for (int n = 0; n < kColumnPairs; ++n) {
      vst1_f32(sums + 2 * p * kPanel + 2 * n, vget_low_f32(sum[p][n]));
      if (2 * p + 1 < Rows) vst1_f32(sums + (2 * p + 1) * kPanel + 2 * n, vget_high_f32(sum[p][n]));
    }
  }
}

// Sums of Rows rows and kBlockColumns<T> columns from `column` on -> sums [Rows][kPanel]. Addresses in units of 32 bits.
template <class T, int Rows>
void block(const float* activation, std::ptrdiff_t row_stride, const Product<T>& product, const float* weight, int column, float* sums,
           Prefetch& prefetch, int lines_per_step) {
  constexpr int kHalf = kPanel / 2;
  weight += column / kHalf * (kPanelStep<T> * static_cast<int>(sizeof(T)) / 8) + column % kHalf;
  if constexpr (kTiles<T>) {
    tiles_block<T, Rows>(activation, row_stride, product, weight, sums, prefetch, lines_per_step);
  } else {
    lanes_block<T, Rows>(activation, row_stride, product, weight, sums, prefetch, lines_per_step);
  }
}

}  // namespace
}  // namespace esat::linear

// Rows of floats to columns and back, a vector's width of rows at a time. Include a simd_*.h first.
#pragma once

#include <cstdint>

namespace esat::attention {
namespace {

template <class S>
concept Transposes = requires(typename S::Vector (&rows)[S::kWidth]) { S::transpose(rows); };

// columns[d * stride + i] = rows[i * row_stride + d] for S::kWidth rows i and d < count.
template <class S>
inline void to_columns(const float* rows, std::int64_t row_stride, std::int64_t count, float* columns, std::int64_t stride) {
  std::int64_t d = 0;
  if constexpr (Transposes<S>) {
    for (; d + S::kWidth <= count; d += S::kWidth) {
      typename S::Vector block[S::kWidth];
      for (int i = 0; i < S::kWidth; ++i) block[i] = S::load(rows + i * row_stride + d);
      S::transpose(block);
      for (int i = 0; i < S::kWidth; ++i) S::store(columns + (d + i) * stride, block[i]);
    }
  }
  for (int i = 0; i < S::kWidth; ++i) {
    for (std::int64_t rest = d; rest < count; ++rest) columns[rest * stride + i] = rows[i * row_stride + rest];
  }
}

// The other way.
template <class S>
inline void to_rows(const float* columns, std::int64_t stride, std::int64_t count, float* rows, std::int64_t row_stride) {
  std::int64_t d = 0;
  if constexpr (Transposes<S>) {
    for (; d + S::kWidth <= count; d += S::kWidth) {
      typename S::Vector block[S::kWidth];
      for (int i = 0; i < S::kWidth; ++i) block[i] = S::load(columns + (d + i) * stride);
      S::transpose(block);
      for (int i = 0; i < S::kWidth; ++i) S::store(rows + i * row_stride + d, block[i]);
    }
  }
  for (int i = 0; i < S::kWidth; ++i) {
    for (std::int64_t rest = d; rest < count; ++rest) rows[i * row_stride + rest] = columns[rest * stride + i];
  }
}

}  // namespace
}  // namespace esat::attention

// LayerNorm: fp32 rows in, bf16 tiles or rows out.

#include "linear/vector_avx512bf16.h"

namespace esat::linear {
namespace {

constexpr float kEpsilon = 1e-6F;  // of the backbone's LayerNorms

struct Moments {
  __m512 mean;
  __m512 scale;
};

// Mean and 1 / sqrt(variance + eps) of one row, in two passes over the row (it stays in L1): no cancellation.
inline Moments moments(const float* row, int dim) {
  __m512 low = _mm512_setzero_ps();
  __m512 high = low;
  for (int i = 0; i < dim; i += 32) {
    low = _mm512_add_ps(low, _mm512_loadu_ps(row + i));
    high = _mm512_add_ps(high, _mm512_loadu_ps(row + i + 16));
  }
  const float mean = _mm512_reduce_add_ps(_mm512_add_ps(low, high)) / static_cast<float>(dim);
  const __m512 centre = _mm512_set1_ps(mean);
  low = _mm512_setzero_ps();
  high = low;
  for (int i = 0; i < dim; i += 32) {
    const __m512 a = _mm512_sub_ps(_mm512_loadu_ps(row + i), centre);
    const __m512 b = _mm512_sub_ps(_mm512_loadu_ps(row + i + 16), centre);
    low = _mm512_fmadd_ps(a, a, low);
    high = _mm512_fmadd_ps(b, b, high);
  }
  const float variance = _mm512_reduce_add_ps(_mm512_add_ps(low, high)) / static_cast<float>(dim);
  return {centre, _mm512_set1_ps(1.0F / __builtin_sqrtf(variance + kEpsilon))};
}

}  // namespace

void normalise_to_tiles(const float* x, int rows, int dim, bf16* tiles) {
  const int steps = dim / kTileDepth;
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<std::ptrdiff_t>(r) * dim;
    const auto [mean, scale] = moments(row, dim);
    bf16* out = tiles + static_cast<std::ptrdiff_t>(r / kTileRows) * kTileRows * dim + r % kTileRows * kTileDepth;
    for (int s = 0; s < steps; ++s) {
      const __m512 low = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + s * 32), mean), scale);
      const __m512 high = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + s * 32 + 16), mean), scale);
      store_bf16(out + s * (kTileRows * kTileDepth), low, high);
    }
  }
}

void normalise_to_rows(const float* x, int rows, int dim, const float* gain, const float* bias, const std::int32_t* place, bf16* out) {
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<std::ptrdiff_t>(r) * dim;
    const auto [mean, scale] = moments(row, dim);
    bf16* to = out + static_cast<std::ptrdiff_t>(place[r]) * dim;
    for (int i = 0; i < dim; i += 32) {
      const __m512 low = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + i), mean), scale);
      const __m512 high = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + i + 16), mean), scale);
      store_bf16(to + i, _mm512_fmadd_ps(low, _mm512_loadu_ps(gain + i), _mm512_loadu_ps(bias + i)),
                 _mm512_fmadd_ps(high, _mm512_loadu_ps(gain + i + 16), _mm512_loadu_ps(bias + i + 16)));
    }
  }
}

}  // namespace esat::linear

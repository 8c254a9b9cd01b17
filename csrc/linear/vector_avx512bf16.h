// What happens to a row of 32 sums, in AVX-512 with bf16. Only for sources that are compiled for it.
#pragma once

// gcc 12 warns of its own headers: the unused source of an unmasked intrinsic counts as uninitialised.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include "linear/linear.h"

namespace esat::linear {
namespace {

// Phi(x) - 1/2 = x P(u), u = 2 (x / 4.2)^2 - 1, |x| clamped to 4.2: minimax fit of x * Phi(x), lowest power first.
constexpr float kGeluEnd = 4.2F;
constexpr float kGelu[] = {0.16785573959350586F,  -0.08149605989456177F,   0.055842325091362F,
                           -0.03879304602742195F, 0.024770013988018036F,   -0.01411878690123558F,
                           0.00866865087300539F,  -0.0054867868311703205F, 0.0018031698418781161F};
constexpr int kGeluDegree = 8;

inline __m512 gelu(__m512 x) {
  const __m512 end = _mm512_set1_ps(kGeluEnd);
  const __m512 clamped = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-kGeluEnd)), end);
  const __m512 u = _mm512_fmadd_ps(_mm512_mul_ps(clamped, clamped), _mm512_set1_ps(2 / (kGeluEnd * kGeluEnd)), _mm512_set1_ps(-1));
  __m512 p = _mm512_set1_ps(kGelu[kGeluDegree]);
#pragma GCC unroll 8
  for (int i = kGeluDegree - 1; i >= 0; --i) p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(kGelu[i]));
  return _mm512_mul_ps(x, _mm512_fmadd_ps(clamped, p, _mm512_set1_ps(0.5F)));
}

inline void store_bf16(bf16* out, __m512 low, __m512 high) {
  _mm512_storeu_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
}

inline void finish_row(const StoreRows& e, const float* sums, int row, int panel) {
  const int column = panel * kPanel;
  const __m512 low = _mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(e.bias + column));
  const __m512 high = _mm512_add_ps(_mm512_load_ps(sums + 16), _mm512_loadu_ps(e.bias + column + 16));
  store_bf16(e.out + row * e.stride + column, low, high);
}

inline void finish_row(const StoreGeluTiles& e, const float* sums, int row, int panel) {
  const int column = panel * kPanel;
  const __m512 low = gelu(_mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(e.bias + column)));
  const __m512 high = gelu(_mm512_add_ps(_mm512_load_ps(sums + 16), _mm512_loadu_ps(e.bias + column + 16)));
  const std::ptrdiff_t tile = static_cast<std::ptrdiff_t>(row / kTileRows) * e.steps + panel;
  store_bf16(e.out + tile * (kTileRows * kTileDepth) + row % kTileRows * kTileDepth, low, high);
}

inline void finish_row(const AddRows& e, const float* sums, int row, int panel) {
  const int column = panel * kPanel;
  const std::ptrdiff_t at = row * e.stride + column;
  __m512 low = _mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(e.residual + at));
  __m512 high = _mm512_add_ps(_mm512_load_ps(sums + 16), _mm512_loadu_ps(e.residual + at + 16));
  if (e.bias != nullptr) {
    low = _mm512_add_ps(low, _mm512_loadu_ps(e.bias + column));
    high = _mm512_add_ps(high, _mm512_loadu_ps(e.bias + column + 16));
  }
  _mm512_storeu_ps(e.out + at, low);
  _mm512_storeu_ps(e.out + at + 16, high);
}

inline void finish_row(const StoreReluRows& e, const float* sums, int row, int panel) {
  if (row >= e.rows) return;
  const int column = panel * kPanel;
  const __m512 zero = _mm512_setzero_ps();
  __m512 low = zero;
  __m512 high = zero;
  if (e.valid[row] != 0) {
    low = _mm512_max_ps(zero, _mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(e.bias + column)));
    high = _mm512_max_ps(zero, _mm512_add_ps(_mm512_load_ps(sums + 16), _mm512_loadu_ps(e.bias + column + 16)));
  }
  store_bf16(e.out + row * e.stride + column, low, high);
}

}  // namespace
}  // namespace esat::linear

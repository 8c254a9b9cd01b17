// Exponentials just good enough for results in bf16, and rounding two vectors to pairs of bf16.
#pragma once

#include <immintrin.h>

namespace esat::attention {
namespace {

// 2^f on [0, 1): relative errors 1.7e-3 and 7.5e-5.
constexpr float kQuadratic[4] = {1.0017247200012207F, 0.6576363444328308F, 0.3371894359588623F, 0.0F};
constexpr float kCubic[4] = {0.9999251961708069F, 0.6958335041999817F, 0.2260671705007553F, 0.07802452147006989F};

inline __m512 fraction(__m512 x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

// (a0 + a1 f + a2 f^2) 2^floor(x) with f the fraction of x: the coefficients may carry a factor.
inline __m512 scaled_exp2(__m512 x, __m512 a0, __m512 a1, __m512 a2) {
  const __m512 f = fraction(x);
  return _mm512_scalef_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(a2, f, a1), f, a0), x);
}

inline __m512 scaled_exp2(__m512 x, __m512 a0, __m512 a1, __m512 a2, __m512 a3) {
  const __m512 f = fraction(x);
  return _mm512_scalef_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(a3, f, a2), f, a1), f, a0), x);
}

// 2^x, relative error 7.5e-5.
inline __m512 exp2_cubic(__m512 x) {
  return scaled_exp2(x, _mm512_set1_ps(kCubic[0]), _mm512_set1_ps(kCubic[1]), _mm512_set1_ps(kCubic[2]), _mm512_set1_ps(kCubic[3]));
}

// The same plus 2^-8 of the power of two below it, half a unit of bf16: cutting it to bf16 rounds to nearest.
inline __m512 exp2_to_cut(__m512 x) {
  return scaled_exp2(x, _mm512_set1_ps(kCubic[0] + 0.00390625F), _mm512_set1_ps(kCubic[1]), _mm512_set1_ps(kCubic[2]),
                     _mm512_set1_ps(kCubic[3]));
}

// The bits of any finite number, so that cutting them to bf16 rounds to nearest.
inline __m512i to_cut(__m512 x) { return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)); }

// Two vectors cut to pairs of bf16, `low` in the lower halves.
inline __m512i cut_pairs(__m512i low, __m512i high) { return _mm512_mask_blend_epi16(0xaaaaaaaaU, _mm512_srli_epi32(low, 16), high); }

}  // namespace
}  // namespace esat::attention

// Eight floats with AVX2 and FMA; the contract is in simd_portable.h.
#pragma once

#include <immintrin.h>

#include <cfloat>

namespace esat {
namespace {

struct Simd {
  using Vector = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRows = 4;
  static constexpr int kVectors = 3;

  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector set1(float x) { return _mm256_set1_ps(x); }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector floor(Vector x) { return _mm256_floor_ps(x); }
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static float sum(Vector x) {
    const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 half = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }

  // 2^(x + shift) for a finite integer shift, relative error below 2e-7. Below 2^-126 gives 2^-126; x + shift above 127 is not allowed.
  // x comes finite or NaN to the subtraction: -inf has no fraction. NaN stays NaN: max passes its second operand on, and a NaN's exponent
  // converts to the integer whose low bits are 0.
  static Vector exp2(Vector x, Vector shift) {
    x = max(set1(-FLT_MAX), x);
    const Vector n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return scale(fraction_exp2(sub(x, n)), max(set1(-126.0F), add(n, shift)));
  }
  static Vector exp2(Vector x) {
    x = max(set1(-126.0F), x);
    const Vector n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return scale(fraction_exp2(sub(x, n)), n);
  }

  // Rows to columns.
  static void transpose(Vector (&rows)[kWidth]) {
    Vector pairs[kWidth], quads[kWidth];
    for (int i = 0; i < kWidth; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < kWidth; i += 4) {
      for (int half = 0; half < 2; ++half) {
        quads[i + 2 * half] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0x44);
        quads[i + 2 * half + 1] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0xee);
      }
    }
    for (int i = 0; i < 4; ++i) {
      rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }

  // Every lane of x is in [low, high]; false for NaN.
  static bool all_within(Vector x, float low, float high) {
    const Vector inside = _mm256_and_ps(_mm256_cmp_ps(x, set1(low), _CMP_GE_OQ), _mm256_cmp_ps(x, set1(high), _CMP_LE_OQ));
    return _mm256_movemask_ps(inside) == 0xff;
  }

 private:
  // 2^f for f in [-1/2, 1/2].
  static Vector fraction_exp2(Vector f) {
    Vector p = set1(0.0013276472454890609F);
    p = fma(p, f, set1(0.009675541892647743F));
    p = fma(p, f, set1(0.05550713092088699F));
    p = fma(p, f, set1(0.24022120237350464F));
    p = fma(p, f, set1(0.6931469440460205F));
    return fma(p, f, set1(1.0F));
  }
  // p 2^n for an integer n of at least -126.
  static Vector scale(Vector p, Vector n) {
    const __m256i exponent = _mm256_cvtps_epi32(n);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(exponent, 23)));
  }
};

}  // namespace
}  // namespace esat

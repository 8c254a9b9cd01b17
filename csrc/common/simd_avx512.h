// Sixteen floats with AVX-512; the contract is in simd_portable.h.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12 warns about its own intrinsics (PR 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace esat {
namespace {

struct Simd {
  using Vector = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRows = 8;
  static constexpr int kVectors = 3;

  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector set1(float x) { return _mm512_set1_ps(x); }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector floor(Vector x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  static float sum(Vector x) { return _mm512_reduce_add_ps(x); }

  // 2^(x + shift) for an integer shift, relative error below 2e-7; underflows
  // to 0. x + shift above 127 is not allowed.
  static Vector exp2(Vector x, Vector shift) {
    const Vector f = rest(x);
    return _mm512_scalef_ps(fraction_exp2(f), add(sub(x, f), shift));
  }
  static Vector exp2(Vector x) {
    const Vector f = rest(x);
    return _mm512_scalef_ps(fraction_exp2(f), sub(x, f));
  }

  // Every lane of x is in [low, high]; false for NaN.
  static bool all_within(Vector x, float low, float high) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, set1(low), _CMP_GE_OQ);
    return _mm512_mask_cmp_ps_mask(above, x, set1(high), _CMP_LE_OQ) == 0xffff;
  }

 private:
  // What x has beside the nearest integer: one instruction where roundscale is two.
  static Vector rest(Vector x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  // 2^f for -1/2 <= f <= 1/2.
  static Vector fraction_exp2(Vector f) {
    Vector p = set1(0.0013276472454890609F);
    p = fma(p, f, set1(0.009675541892647743F));
    p = fma(p, f, set1(0.05550713092088699F));
    p = fma(p, f, set1(0.24022120237350464F));
    p = fma(p, f, set1(0.6931469440460205F));
    return fma(p, f, set1(1.0F));
  }
};

}  // namespace
}  // namespace esat

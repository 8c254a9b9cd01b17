// Four floats with NEON, which every 64-bit ARM processor has; the contract is in simd_portable.h. 32 registers: wide tiles.
#pragma once

#include <arm_neon.h>

#include <cfloat>

namespace esat {
namespace {

struct Simd {
  using Vector = float32x4_t;
  static constexpr int kWidth = 4;
  static constexpr int kRows = 4;
  static constexpr int kVectors = 6;

  static Vector load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, Vector v) { vst1q_f32(p, v); }
  static Vector set1(float x) { return vdupq_n_f32(x); }
  static Vector zero() { return vdupq_n_f32(0); }
  static Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
  static Vector sub(Vector a, Vector b) { return vsubq_f32(a, b); }
  static Vector mul(Vector a, Vector b) { return vmulq_f32(a, b); }
  static Vector div(Vector a, Vector b) { return vdivq_f32(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
  static Vector floor(Vector x) { return vrndmq_f32(x); }
  // NaN where either operand is.
  static Vector max(Vector a, Vector b) { return vmaxq_f32(a, b); }
  static Vector min(Vector a, Vector b) { return vminq_f32(a, b); }
  static float sum(Vector x) { return vaddvq_f32(x); }

  // 2^(x + shift) for a finite integer shift, relative error below 2e-7. Below 2^-126 gives 2^-126; x + shift above 127 is not allowed.
  // x comes finite or NaN to the subtraction: -inf has no fraction. NaN stays NaN: as an exponent it converts to 0.
  static Vector exp2(Vector x, Vector shift) {
    x = max(x, set1(-FLT_MAX));
    const Vector n = vrndnq_f32(x);
    return scale(fraction_exp2(sub(x, n)), max(add(n, shift), set1(-126.0F)));
  }
  static Vector exp2(Vector x) {
    x = max(x, set1(-126.0F));
    const Vector n = vrndnq_f32(x);
    return scale(fraction_exp2(sub(x, n)), n);
  }

  // Rows to columns.
  static void transpose(Vector (&rows)[kWidth]) {
    const Vector low01 = vzip1q_f32(rows[0], rows[2]), high01 = vzip2q_f32(rows[0], rows[2]);
    const Vector low23 = vzip1q_f32(rows[1], rows[3]), high23 = vzip2q_f32(rows[1], rows[3]);
    rows[0] = vzip1q_f32(low01, low23);
    rows[1] = vzip2q_f32(low01, low23);
    rows[2] = vzip1q_f32(high01, high23);
    rows[3] = vzip2q_f32(high01, high23);
  }

  // Every lane of x is in [low, high]; false for NaN.
  static bool all_within(Vector x, float low, float high) {
    return vminvq_u32(vandq_u32(vcgeq_f32(x, set1(low)), vcleq_f32(x, set1(high)))) != 0;
  }

 private:
  // p 2^n for an integer n of at least -126.
  static Vector scale(Vector p, Vector n) {
    const int32x4_t exponent = vshlq_n_s32(vcvtq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent));
  }
  // 2^f for f in [-1/2, 1/2].
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

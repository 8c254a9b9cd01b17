// Four floats by the compiler's vector extension: any processor that g++ or
// clang knows. The contract that the other simd_*.h repeat: load, store, set1,
// zero, add, sub, mul, div, fma(a, b, c) = a b + c, max, min, floor, sum (of
// the lanes), exp2, all_within; max and min give their second operand where one is
// NaN. transpose is there where it beats single floats.
#pragma once

#include <cstring>

namespace esat {
namespace {

struct Simd {
  typedef float Vector __attribute__((vector_size(16)));
  typedef unsigned Words __attribute__((vector_size(16)));  // of bits: a sum wraps
  static constexpr int kWidth = 4;
  static constexpr int kRows = 4;     // rows of the register tile of a product
  static constexpr int kVectors = 2;  // and vectors in each row

  static Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
  static Vector set1(float x) { return Vector{x, x, x, x}; }
  static Vector zero() { return Vector{}; }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector sub(Vector a, Vector b) { return a - b; }
  static Vector mul(Vector a, Vector b) { return a * b; }
  static Vector div(Vector a, Vector b) { return a / b; }
  static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector floor(Vector x) {
    for (int lane = 0; lane < kWidth; ++lane) x[lane] = __builtin_floorf(x[lane]);
    return x;
  }
  static Vector max(Vector a, Vector b) { return a > b ? a : b; }
  static Vector min(Vector a, Vector b) { return a < b ? a : b; }
  static float sum(Vector x) { return (x[0] + x[2]) + (x[1] + x[3]); }

  // 2^(x + shift) for a finite integer shift, relative error below 2e-7: x is never rounded. Below 2^-125 gives no less than 2^-126;
  // x + shift above 127 is not allowed. The magic number rounds the sum, which is small where x and shift are not; the fraction is that of
  // x, and its bound is met below 2^-125 alone. NaN stays NaN: max passes its second operand on, and the payload in the low bits
  // does not reach the result.
  static Vector exp2(Vector x, Vector shift) {
    const Vector magic = set1(kMagic);
    const Vector power = max(set1(-125.0F), x + shift) + magic;
    return scale(max(set1(-0.75F), x - ((power - magic) - shift)), power);
  }
  static Vector exp2(Vector x) {
    const Vector magic = set1(kMagic);
    x = max(set1(-126.0F), x);
    const Vector power = x + magic;
    return scale(x - (power - magic), power);
  }

  // Every lane of x is in [low, high]; false for NaN.
  static bool all_within(Vector x, float low, float high) {
    for (int lane = 0; lane < kWidth; ++lane) {
      if (!(x[lane] >= low && x[lane] <= high)) return false;
    }
    return true;
  }

 private:
  static constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits

  // 2^f for f in [-3/4, 1/2], times 2^n for the n in the low bits of `power`.
  static Vector scale(Vector f, Vector power) {
    Vector p = set1(0.0013276472454890609F);
    p = fma(p, f, set1(0.009675541892647743F));
    p = fma(p, f, set1(0.05550713092088699F));
    p = fma(p, f, set1(0.24022120237350464F));
    p = fma(p, f, set1(0.6931469440460205F));
    p = fma(p, f, set1(1.0F));
    Words bits, exponent;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&exponent, &power, sizeof exponent);
    bits = (bits + (exponent << 23)) | reinterpret_cast<Words>(f != f);
    std::memcpy(&p, &bits, sizeof p);
    return p;
  }
};

}  // namespace
}  // namespace esat

// Multiply-adds of a register tile's row in the order that they are written in. Include a common/simd_*.h first.
#pragma once

namespace esat {
namespace {

#if defined(__AVX2__) && !defined(__AVX512F__)
// Steps that a product's inner loop takes at once, each with a multiply-add for every sum of the tile. A core whose front end serves a
// second thread issues three instructions a cycle: with the loop's own, twelve multiply-adds would not get their six cycles.
constexpr int kUnrolled = 4;

// sums[i] += *value b[i]. In an unrolled loop g++ 12 would load b anew for each product, or move the sums from register to register.
inline void add_products(__m256 (&sums)[2], const float* value, const __m256 (&b)[2]) {
  __m256 a;
  asm("vbroadcastss %[value], %[a]\n\tvfmadd231ps %[b0], %[a], %[s0]\n\tvfmadd231ps %[b1], %[a], %[s1]"
      : [s0] "+&x"(sums[0]), [s1] "+x"(sums[1]), [a] "=&x"(a)
      : [value] "m"(*value), [b0] "x"(b[0]), [b1] "x"(b[1]));
}
inline void add_products(__m256 (&sums)[3], const float* value, const __m256 (&b)[3]) {
  __m256 a;
  asm("vbroadcastss %[value], %[a]\n\tvfmadd231ps %[b0], %[a], %[s0]\n\tvfmadd231ps %[b1], %[a], %[s1]\n\tvfmadd231ps %[b2], %[a], %[s2]"
      : [s0] "+&x"(sums[0]), [s1] "+&x"(sums[1]), [s2] "+x"(sums[2]), [a] "=&x"(a)
      : [value] "m"(*value), [b0] "x"(b[0]), [b1] "x"(b[1]), [b2] "x"(b[2]));
}
#else
constexpr int kUnrolled = 1;
#endif

}  // namespace
}  // namespace esat

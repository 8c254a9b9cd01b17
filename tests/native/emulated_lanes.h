// Lanes of emulated vectors (emulated_avx512.h): moved between types, computed one by one, rounded and compared as the instructions' lanes are.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace esat::emulation {

using Floats = __m512;
using Words = __v16si;  // 32 bits
using Halves = __v32hu;

template <class To, class From>
To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class V>
V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
void store(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

template <class F>
Floats each(F f) {
  Floats out;
  for (int i = 0; i < 16; ++i) out[i] = f(i);
  return out;
}

template <class F>
__m512i each_word(F f) {
  Words out;
  for (int i = 0; i < 16; ++i) out[i] = static_cast<int>(f(i));
  return as<__m512i>(out);
}

inline bool has(unsigned mask, int lane) { return (mask >> lane & 1U) != 0; }

inline std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = as<std::uint32_t>(value);
  if (value != value) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

inline float low_half(int word) { return as<float>(static_cast<std::uint32_t>(word) << 16); }
inline float high_half(int word) { return as<float>(static_cast<std::uint32_t>(word) & 0xffff0000U); }

inline Floats fma(Floats a, Floats b, Floats c) {
  struct Two {
    __m256 low, high;
  };
  const Two x = as<Two>(a), y = as<Two>(b), z = as<Two>(c);
  return as<Floats>(Two{_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)});
}

// The second operand where they do not compare.
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

// To a multiple of 2^-(imm >> 4), by the direction in the lowest two bits.
inline float rounded(float x, int imm) {
  const float unit = std::ldexp(1.0F, -(imm >> 4));
  const float scaled = x / unit;
  switch (imm & 3) {
    case 0:
      return std::nearbyint(scaled) * unit;
    case 1:
      return std::floor(scaled) * unit;
    case 2:
      return std::ceil(scaled) * unit;
    default:
      return std::trunc(scaled) * unit;
  }
}

inline float scaled_by(float x, float power) {
  if (power != power) return power;
  if (std::isinf(power) && (x != x || std::isinf(x) || x == 0)) {  // a NaN is gone where the power takes everything
    if (power < 0) return std::isinf(x) ? std::numeric_limits<float>::quiet_NaN() : 0.0F * (x == x ? x : 0.0F);
    return x == 0 ? std::numeric_limits<float>::quiet_NaN() : x == x ? x : power;
  }
  return std::ldexp(x, static_cast<int>(std::floor(std::fmin(std::fmax(power, -1000.0F), 1000.0F))));
}

inline float mantissa(float x) {  // [0.75, 1.5), the sign taken off
  if (x != x) return x;
  if (x == 0 || std::isinf(x)) return 1;
  int exponent = 0;
  const float m = std::frexp(std::fabs(x), &exponent);  // [0.5, 1)
  return m < 0.75F ? 2 * m : m;
}

inline float exponent(float x) {
  if (x != x) return x;
  return std::isinf(x) ? std::numeric_limits<float>::infinity() : x == 0 ? -std::numeric_limits<float>::infinity() : std::logb(x);
}

inline unsigned compared(Floats a, Floats b, int how) {
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) {
    bool holds = false;
    switch (how) {
      case _CMP_GE_OQ:
        holds = a[i] >= b[i];
        break;
      case _CMP_LE_OQ:
        holds = a[i] <= b[i];
        break;
      case _CMP_GT_OQ:
        holds = a[i] > b[i];
        break;
      default:
        __builtin_trap();
    }
    mask |= static_cast<unsigned>(holds) << i;
  }
  return mask;
}

// The upper pair first.
inline float pair_product(int a, int b, float sum) { return std::fma(low_half(a), low_half(b), std::fma(high_half(a), high_half(b), sum)); }

// Four products of an unsigned and a signed byte.
inline int quad_product(int a, int b, int sum) {
  std::uint32_t total = static_cast<std::uint32_t>(sum);
  for (int shift = 0; shift < 32; shift += 8) {
    const int left = static_cast<int>(static_cast<std::uint32_t>(a) >> shift & 0xff);
    total += static_cast<std::uint32_t>(left * static_cast<std::int8_t>(static_cast<std::uint32_t>(b) >> shift & 0xff));
  }
  return static_cast<int>(total);
}

template <int Count, class From>
void load_halves(std::uint16_t (&to)[Count], unsigned mask, const From* from) {
  for (int i = 0; i < Count; ++i) to[i] = has(mask, i) ? reinterpret_cast<const std::uint16_t*>(from)[i] : 0;
}

inline __m256i narrow(Floats x) {
  std::uint16_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = to_bf16(x[i]);
  return load<__m256i>(out);
}

// Lanes `at` of each 128 bits of a and b in turn.
template <class V, int PerLane>
V unpack(V a, V b, int first) {
  V out;
  for (int lane = 0; lane < 4; ++lane) {
    for (int i = 0; i < PerLane / 2; ++i) {
      out[lane * PerLane + 2 * i] = a[lane * PerLane + first + i];
      out[lane * PerLane + 2 * i + 1] = b[lane * PerLane + first + i];
    }
  }
  return out;
}

template <class... Values>
__m512i set_halves(Values... highest_first) {
  const std::uint16_t given[] = {static_cast<std::uint16_t>(highest_first)...};
  static_assert(sizeof...(highest_first) == 32);
  Halves out;
  for (int i = 0; i < 32; ++i) out[i] = given[31 - i];
  return as<__m512i>(out);
}

}  // namespace esat::emulation

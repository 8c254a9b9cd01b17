// bfloat16 and float16 to float and back, to nearest even. In an unnamed
// namespace like everything that is compiled once per instruction set: the
// linker must not put one set's copy in the place of another's.
#pragma once

#include <cstdint>
#include <cstring>

#include "attention/attention.h"

namespace esat::attention {
namespace {

inline std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

inline float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float from_bf16(std::uint16_t half) { return float_from_bits(static_cast<std::uint32_t>(half) << 16); }

inline std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

inline float from_f16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t rest = half & 0x7fffU;
  if (rest >= 0x7c00U) return float_from_bits(sign | 0x7f800000U | (rest & 0x3ffU) << 13);
  if (rest >= 0x400U) return float_from_bits(sign | ((rest << 13) + 0x38000000U));
  const float magnitude = static_cast<float>(rest) * 5.9604644775390625e-08F;  // subnormal: units of 2^-24
  return float_from_bits(sign | bits_of(magnitude));
}

inline std::uint16_t to_f16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
  const std::uint32_t rest = bits & 0x7fffffffU;
  if (rest > 0x7f800000U) return sign | 0x7e00U;
  if (rest >= 0x47800000U) return sign | 0x7c00U;  // 65536 and more; 65520 to 65536 round up below
  if (rest < 0x38800000U) {                        // subnormal: adding 0.5 rounds to units of 2^-24
    return static_cast<std::uint16_t>(sign | (bits_of(float_from_bits(rest) + 0.5F) - 0x3f000000U));
  }
  return static_cast<std::uint16_t>(sign | ((rest - 0x38000000U + 0xfffU + (rest >> 13 & 1U)) >> 13));
}

// `count` neighbouring values of `dtype`, `offset` elements after `source`.
inline void read_floats(const void* source, Dtype dtype, std::int64_t offset, std::int64_t count, float* target) {
  if (dtype == Dtype::f32) {
    std::memcpy(target, static_cast<const float*>(source) + offset, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  const std::uint16_t* halves = static_cast<const std::uint16_t*>(source) + offset;
  if (dtype == Dtype::bf16) {
    for (std::int64_t i = 0; i < count; ++i) target[i] = from_bf16(halves[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) target[i] = from_f16(halves[i]);
  }
}

// Asks for a row that is read soon. Rows of q, k and v lie too far apart for the hardware to see them coming.
inline void prefetch_row(const void* source, Dtype dtype, std::int64_t offset, std::int64_t count) {
  const std::int64_t size = dtype == Dtype::f32 ? 4 : 2;
  const char* row = static_cast<const char*>(source) + offset * size;
  for (std::int64_t byte = 0; byte < count * size; byte += 64) __builtin_prefetch(row + byte);
}
constexpr std::int64_t kRowsAhead = 12;

inline void write_float(void* target, Dtype dtype, std::int64_t index, float value) {
  if (dtype == Dtype::f32) {
    static_cast<float*>(target)[index] = value;
  } else {
    static_cast<std::uint16_t*>(target)[index] = dtype == Dtype::bf16 ? to_bf16(value) : to_f16(value);
  }
}

inline void write_floats(void* target, Dtype dtype, std::int64_t offset, std::int64_t count, const float* source) {
  if (dtype == Dtype::f32) {
    std::memcpy(static_cast<float*>(target) + offset, source, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  std::uint16_t* halves = static_cast<std::uint16_t*>(target) + offset;
  if (dtype == Dtype::bf16) {
    for (std::int64_t i = 0; i < count; ++i) halves[i] = to_bf16(source[i]);
  } else {
    for (std::int64_t i = 0; i < count; ++i) halves[i] = to_f16(source[i]);
  }
}

}  // namespace
}  // namespace esat::attention

// bfloat16 in plain C++.
#pragma once

#include <bit>
#include <cstdint>

namespace esat {

// Rounds to nearest, ties to even. Not for NaN.
inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

}  // namespace esat

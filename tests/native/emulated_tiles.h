// AMX tiles in plain C++, so that csrc/linear/linear_cpu_amx.cpp runs on processors without them. Follows the instruction set reference:
// products of even and of odd columns are summed apart and in order, then added to the tile.
//
// Tiles hold NaN until they are zeroed or loaded, and a thread that has loaded no configuration, or another one than 8 whole tiles, throws.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

#define ESAT_EMULATED_TILES

namespace esat::emulation {

constexpr int kRows = 16, kLanes = 16;

struct Tiles {
  bool configured = false;
  std::uint32_t lanes[8][kRows][kLanes];

  Tiles() {
    for (auto& tile : lanes) {
      for (auto& row : tile) {
        for (auto& lane : row) lane = 0x7fc07fc0U;
      }
    }
  }
};

inline Tiles& tiles() {
  static thread_local Tiles state;
  return state;
}

inline void need_configuration() {
  if (!tiles().configured) throw std::logic_error("a tile instruction without a configuration");
}

inline void load_configuration(const void* at) {
  const std::uint8_t* bytes = static_cast<const std::uint8_t*>(at);
  bool whole = bytes[0] == 1 && bytes[1] == 0;
  for (int tile = 0; tile < 8; ++tile)
    whole = whole && bytes[16 + 2 * tile] == 64 && bytes[17 + 2 * tile] == 0 && bytes[48 + tile] == kRows;
  if (!whole) throw std::logic_error("the tile configuration is not 8 tiles of 16 rows of 64 bytes");
  tiles() = Tiles();
  tiles().configured = true;
}

inline void release() { tiles() = Tiles(); }

inline void zero(int tile) {
  need_configuration();
  std::memset(tiles().lanes[tile], 0, sizeof tiles().lanes[tile]);
}

inline void load(int tile, const void* base, std::ptrdiff_t stride) {
  need_configuration();
  for (int row = 0; row < kRows; ++row) std::memcpy(tiles().lanes[tile][row], static_cast<const char*>(base) + row * stride, 64);
}

inline void store(int tile, void* base, std::ptrdiff_t stride) {
  need_configuration();
  for (int row = 0; row < kRows; ++row) std::memcpy(static_cast<char*>(base) + row * stride, tiles().lanes[tile][row], 64);
}

inline float value(std::uint32_t bits) {
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void multiply(int target, int left, int right) {
  need_configuration();
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kLanes; ++column) {
      float even = 0, odd = 0;
      for (int k = 0; k < kLanes; ++k) {
        const std::uint32_t a = tiles().lanes[left][row][k], b = tiles().lanes[right][k][column];
        even = std::fma(value(a << 16), value(b << 16), even);
        odd = std::fma(value(a & 0xffff0000U), value(b & 0xffff0000U), odd);
      }
      const float sum = value(tiles().lanes[target][row][column]) + (even + odd);
      std::memcpy(&tiles().lanes[target][row][column], &sum, sizeof sum);
    }
  }
}

// Four products of unsigned (left) and signed (right) bytes a lane, added without saturation.
inline void multiply_bytes(int target, int left, int right) {
  need_configuration();
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kLanes; ++column) {
      std::uint32_t sum = tiles().lanes[target][row][column];
      for (int k = 0; k < kLanes; ++k) {
        const std::uint32_t a = tiles().lanes[left][row][k], b = tiles().lanes[right][k][column];
        for (int shift = 0; shift < 32; shift += 8) {
          sum += static_cast<std::uint32_t>(static_cast<int>(a >> shift & 0xff) * static_cast<std::int8_t>(b >> shift & 0xff));
        }
      }
      tiles().lanes[target][row][column] = sum;
    }
  }
}

}  // namespace esat::emulation

namespace esat {
template <class Config>
void load_tile_config(const Config& config) {
  static_assert(sizeof config == 64);
  emulation::load_configuration(&config);
}
}  // namespace esat

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbusd
#undef _tile_release
#define _tile_zero esat::emulation::zero
#define _tile_loadd esat::emulation::load
#define _tile_stream_loadd esat::emulation::load
#define _tile_stored esat::emulation::store
#define _tile_dpbf16ps esat::emulation::multiply
#define _tile_dpbusd esat::emulation::multiply_bytes
#define _tile_release esat::emulation::release

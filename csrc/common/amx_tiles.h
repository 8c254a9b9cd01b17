// The configuration of AMX: eight tiles of 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace esat {
namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#if !defined(ESAT_EMULATED_TILES)
// Not by _tile_loadconfig: gcc 12 believes that it reads 8 bytes, and drops the rest of the object.
inline void load_tile_config(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
#endif

// For this thread. To be released, because a configured tile state makes every context switch dearer.
inline void configure_tiles() {
  static const TileConfig config;
  load_tile_config(config);
}

}  // namespace
}  // namespace esat

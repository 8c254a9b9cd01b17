// AMX tiles of 16 rows of 64 bytes, and the packing of bf16 matrices into them.
//
// tdpbf16ps: C[16][16] float += A[16][32] bf16 * B, with B stored as [16 pairs
// of k][16 columns][2].
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12 warns about its own intrinsics (PR 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "attention/convert.h"
#include "common/amx_tiles.h"

namespace esat::attention {
namespace {

constexpr std::int64_t kTileBytes = 1024;

// Cuts one thread's memory into arrays at multiples of 64 bytes. Of no memory (null), it tells the size.
struct Carver {
  char* memory;
  std::int64_t used = 0;

  std::uint16_t* tiles(std::int64_t count) { return reinterpret_cast<std::uint16_t*>(take(count * kTileBytes)); }
  float* floats(std::int64_t count) { return reinterpret_cast<float*>(take(count * 4)); }

 private:
  char* take(std::int64_t bytes) {
    char* here = memory == nullptr ? nullptr : memory + used;
    used += round_up(bytes, 64);
    return here;
  }
};

class TileScope {
 public:
  TileScope() { configure_tiles(); }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

inline __mmask16 first_lanes(std::int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1U << (count < 0 ? 0 : count)) - 1U);
}

// 16 x 16 words of 32 bits in place.
inline void transpose(__m512i* r) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// A tile of 16 rows of 32 bf16 as it stands; rows and columns that are not
// there become 0.
inline void pack_rows(const std::uint16_t* source, std::int64_t stride, std::int64_t rows, std::int64_t columns, std::uint16_t* tile) {
  const __mmask32 mask = columns >= 32 ? 0xffffffffU : (1U << columns) - 1U;
  for (std::int64_t r = 0; r < 16; ++r) {
    const __m512i line = r < rows ? _mm512_maskz_loadu_epi16(mask, source + r * stride) : _mm512_setzero_si512();
    _mm512_store_si512(tile + r * 32, line);
  }
}

// The transpose of such a tile as a B operand: [16 pairs of columns][16
// rows][2]. Returns the sums of squares of the rows, added to `squares`.
inline __m512 pack_transposed(const std::uint16_t* source, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                              std::uint16_t* tile, __m512 squares) {
  const __mmask32 mask = columns >= 32 ? 0xffffffffU : (1U << columns) - 1U;
  __m512i line[16];
#pragma GCC unroll 16
  for (std::int64_t r = 0; r < 16; ++r) {
    line[r] = r < rows ? _mm512_maskz_loadu_epi16(mask, source + r * stride) : _mm512_setzero_si512();
  }
  transpose(line);
  __m512 odd = _mm512_setzero_ps();
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    _mm512_store_si512(tile + r * 32, line[r]);
    const __m512bh pair = reinterpret_cast<__m512bh>(line[r]);
    if (r % 2 == 0) squares = _mm512_dpbf16_ps(squares, pair, pair);
    if (r % 2 == 1) odd = _mm512_dpbf16_ps(odd, pair, pair);
  }
  return _mm512_add_ps(squares, odd);
}

// 32 rows of 16 bf16 as a B operand whose pairs are rows t and t + 16: the
// order in which two vectors of 16 probabilities are blended.
inline void pack_pairs(const std::uint16_t* source, std::int64_t stride, std::int64_t rows, std::int64_t columns, std::uint16_t* tile) {
  const __mmask16 mask = first_lanes(columns);
  for (std::int64_t t = 0; t < 16; ++t) {
    const __m256i low = t < rows ? _mm256_maskz_loadu_epi16(mask, source + t * stride) : _mm256_setzero_si256();
    const __m256i high = t + 16 < rows ? _mm256_maskz_loadu_epi16(mask, source + (t + 16) * stride) : _mm256_setzero_si256();
    const __m512i pair = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    _mm512_store_si512(tile + t * 32, pair);
  }
}

}  // namespace
}  // namespace esat::attention

// The matrix product on AMX tiles. Up to 3 x 2 accumulators of 16 x 16 stay in tile registers over the whole inner dimension.
//
// What limits it is the way from the L2 cache (54 bytes a cycle against 64 that a 2 x 2 block wants), so that
// - the inner dimension runs forth and back in turn: the part of the panel that was read last is still in L1 for the next block of rows;
// - activation tiles are loaded with the streaming hint, which leaves L1 to the panel;
// - the sums of one block are finished (bias, GELU, rounding) by the vector units while the tiles already work on the next;
// - the next panel is prefetched into L2, spread over all steps.

#include "common/simd_avx512.h"

#include <algorithm>

#include "common/amx_tiles.h"
#include "linear/quantise.h"

namespace esat::linear {
namespace {

constexpr int kMaxBlock = 3;  // tiles of rows in one block
constexpr int kScratch = kMaxBlock * kTileRows * kPanel;

// Sums of one block that wait for their epilogue.
struct Pending {
  const float* sums = nullptr;  // [rows][kPanel]
  int row = 0;
  int rows = 0;
  int done = 0;
  int panel = 0;
};

template <class W, class Epilogue>
inline void finish(const Product<W>& product, Pending& pending, int count, const Epilogue& epilogue) {
  const int end = std::min(pending.rows, pending.done + count);
  for (; pending.done < end; ++pending.done) {
    const int row = pending.row + pending.done;
    finish_row(epilogue, sums_of(product, pending.sums + pending.done * kPanel, row, pending.panel), row, pending.panel);
  }
}

struct Prefetch {
  const char* at;
  const char* end;
};

// Tile numbers must be literals.
#define ESAT_TILE_PRODUCT(target, left, right) \
  if constexpr (std::is_same_v<W, int8>) {     \
    _tile_dpbusd(target, left, right);         \
  } else {                                     \
    _tile_dpbf16ps(target, left, right);       \
  }

inline void prefetch(Prefetch& lines, int count) {
  for (int i = 0; i < count && lines.at < lines.end; ++i, lines.at += 64) _mm_prefetch(lines.at, _MM_HINT_T1);
}

// Sums of Tiles x 16 rows and one panel -> sums [Tiles * 16][kPanel], with the previous block's epilogue in between.
template <int Tiles, class W, class Epilogue>
inline void block(const Product<W>& product, const Activation<W>* activation, const W* weight, bool backwards, float* sums,
                  Pending& pending, const Epilogue& epilogue, Prefetch& lines, int lines_per_step) {
  const std::ptrdiff_t tile = product.tile_stride;
  const std::ptrdiff_t stride = product.row_stride * static_cast<std::ptrdiff_t>(sizeof(W));
  const int steps = product.steps;
  const int rows_per_step = (pending.rows + steps - 1) / steps;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (Tiles > 1) {
    _tile_zero(2);
    _tile_zero(3);
  }
  if constexpr (Tiles > 2) {
    _tile_zero(4);
    _tile_zero(5);
  }
  for (int k = 0; k < steps; ++k) {
    const int step = backwards ? steps - 1 - k : k;
    const Activation<W>* a = activation + product.step_offset[step];
    const W* b = weight + static_cast<std::ptrdiff_t>(step) * kPanelStep<W>;
    if constexpr (Tiles == 3) {
      _tile_loadd(7, b, 64);
      _tile_loadd(6, a, stride);
      ESAT_TILE_PRODUCT(0, 6, 7);
      _tile_loadd(6, a + tile, stride);
      ESAT_TILE_PRODUCT(2, 6, 7);
      _tile_loadd(6, a + 2 * tile, stride);
      ESAT_TILE_PRODUCT(4, 6, 7);
      _tile_loadd(7, b + kPanelStep<W> / 2, 64);
      ESAT_TILE_PRODUCT(5, 6, 7);
      _tile_loadd(6, a + tile, stride);
      ESAT_TILE_PRODUCT(3, 6, 7);
      _tile_loadd(6, a, stride);
      ESAT_TILE_PRODUCT(1, 6, 7);
    } else {
      _tile_loadd(6, b, 64);
      _tile_loadd(7, b + kPanelStep<W> / 2, 64);
      _tile_stream_loadd(4, a, stride);
      ESAT_TILE_PRODUCT(0, 4, 6);
      ESAT_TILE_PRODUCT(1, 4, 7);
      if constexpr (Tiles == 2) {
        _tile_stream_loadd(5, a + tile, stride);
        ESAT_TILE_PRODUCT(2, 5, 6);
        ESAT_TILE_PRODUCT(3, 5, 7);
      }
    }
    finish(product, pending, rows_per_step, epilogue);
    prefetch(lines, lines_per_step);
  }
  constexpr int kRowBytes = kPanel * sizeof(float);
  constexpr int kTileFloats = kTileRows * kPanel;
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(1, sums + 16, kRowBytes);
  if constexpr (Tiles > 1) {
    _tile_stored(2, sums + kTileFloats, kRowBytes);
    _tile_stored(3, sums + kTileFloats + 16, kRowBytes);
  }
  if constexpr (Tiles > 2) {
    _tile_stored(4, sums + 2 * kTileFloats, kRowBytes);
    _tile_stored(5, sums + 2 * kTileFloats + 16, kRowBytes);
  }
}

template <class W, class Epilogue>
void run(const Product<W>& product, const Epilogue& epilogue) {
  alignas(64) float scratch[2][kScratch];
  Pending pending;
  int turn = 0;
  const int tiles = product.rows / kTileRows;
  const int blocks = std::max(1, tiles / 2);
  const int lines_per_step = (kPanelStep<W> * static_cast<int>(sizeof(W)) / 64 + blocks - 1) / blocks;
  const std::ptrdiff_t panel_bytes = static_cast<std::ptrdiff_t>(product.steps) * kPanelStep<W> * static_cast<std::ptrdiff_t>(sizeof(W));
  for (int panel = 0; panel < product.panels; ++panel) {
    const W* weight = product.weight + panel * product.panel_stride;
    const void* next = panel + 1 < product.panels ? weight + product.panel_stride : product.next_weight;
    const char* first_line = static_cast<const char*>(next);
    Prefetch lines{first_line, next == nullptr ? first_line : first_line + panel_bytes};
    for (int tile = 0; tile < tiles;) {
      const int left = tiles - tile;
      const int count = left == 3 || left == 1 ? left : 2;
      const Activation<W>* activation = product.activation + tile * product.tile_stride;
      float* sums = scratch[turn & 1];
      // A pair of tiles has its direction wherever it is computed; an odd last tile goes with the pair before it.
      const int pair = (product.first_tile + tile) / 2 - (count == 1 ? 1 : 0);
      const bool backwards = (pair & 1) != 0;
      if (count == 2) {
        block<2>(product, activation, weight, backwards, sums, pending, epilogue, lines, lines_per_step);
      } else if (count == 3) {
        block<3>(product, activation, weight, backwards, sums, pending, epilogue, lines, lines_per_step);
      } else {
        block<1>(product, activation, weight, backwards, sums, pending, epilogue, lines, lines_per_step);
      }
      finish(product, pending, pending.rows, epilogue);
      pending = {sums, tile * kTileRows, count * kTileRows, 0, panel};
      tile += count;
      ++turn;
    }
  }
  finish(product, pending, pending.rows, epilogue);
}

// A tile in one piece of 1 KB.
template <class W>
Layout tiles_layout(int width) {
  return {static_cast<std::ptrdiff_t>(kTileRows) * width, kTileRows * kTileDepth<W>, kTileDepth<W>};
}

void release_tiles() { _tile_release(); }

}  // namespace

const Kernels<bf16> kernels_amx{kTileRows,
                                tiles_layout<bf16>,
                                configure_tiles,
                                release_tiles,
                                run<bf16, StoreRows<bf16>>,
                                run<bf16, StoreGelu<bf16>>,
                                run<bf16, AddRows>,
                                run<bf16, StoreReluRows<bf16>>,
                                normalise<bf16>,
                                normalise_to_rows<bf16>};

const Int8Kernels<bf16> int8_kernels_amx{
    kNoPairLimit,        tiles_layout<int8>, run<int8, StoreRows<bf16>>, run<int8, StoreGelu<bf16>>, run<int8, AddRows>,
    normalise_quantised, quantise<bf16>};

}  // namespace esat::linear

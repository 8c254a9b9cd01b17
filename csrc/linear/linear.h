// Matrix products of bf16 activations with packed weights, and the row-wise operations between them.
//
// Activations: rows in tiles of 16. "Tile layout" [M / 16][K / 32][16][32] holds each AMX tile in one piece of 1 KB; plain rows work too.
// Packed weight of W [N, K]: [N / 32][K / 32][2][16][16][2], element [p][s][h][i][c][j] = W[32 p + 16 h + c][32 s + 2 i + j]: panels of 32
// outputs, in the order in which the tiles are read. N and K are padded with zeros to multiples of 32.
// All functions run on the calling thread, on the rows they are given; callers share rows or panels out among threads. Buffers hold whole
// tiles: rows behind the last one are computed and written like the others. Sums do not depend on how rows are shared out, as long as
// every part but the last ends at an even tile.
#pragma once

#include <cstddef>
#include <cstdint>

namespace esat::linear {

using bf16 = std::uint16_t;

constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;  // columns of an activation tile, one step of the inner dimension
constexpr int kPanel = 32;      // outputs of a weight panel
constexpr int kPanelStep = kPanel * kTileDepth;

struct Product {
  const bf16* activation;           // the first tile
  std::ptrdiff_t tile_stride;       // elements from tile to tile
  std::ptrdiff_t row_stride;        // elements from row to row within a tile
  const std::int32_t* step_offset;  // [steps] elements from a tile's start to the 32 columns of each step; any order of memory will do
  int first_tile;                   // number of the first tile within the whole matrix: decides the order of each row's sum
  int tiles;
  int steps;
  const bf16* weight;           // the first panel
  std::ptrdiff_t panel_stride;  // elements from panel to panel
  int panels;
  const bf16* next_weight;  // brought into the cache during the last panel; may be null
};

// What happens to the sums. `row` counts from the first tile of the product, columns from its first panel.

// out[row * stride + column] = bf16(sum + bias[column])
struct StoreRows {
  bf16* out;
  std::ptrdiff_t stride;
  const float* bias;
};

// Tile layout of `steps` steps a tile, the first panel at step 0 of `out`: bf16(gelu(sum + bias[column])).
// gelu(x) = x Phi(x) with Phi by a polynomial: error below 6e-5 for |x| <= 5.5 and below 1.4e-5 |x| beyond, before the rounding.
struct StoreGeluTiles {
  bf16* out;
  int steps;
  const float* bias;
};

// out[row * stride + column] = residual[row * stride + column] + sum + bias[column]; bias may be null, residual may be out.
struct AddRows {
  float* out;
  const float* residual;
  std::ptrdiff_t stride;
  const float* bias;
};

// out[row * stride + column] = valid[row] ? bf16(max(0, sum + bias[column])) : 0, for rows < `rows` only.
struct StoreReluRows {
  bf16* out;
  std::ptrdiff_t stride;
  const float* bias;
  const std::uint8_t* valid;
  int rows;
};

// On processors with AMX (Isa::amx). The caller brackets them with tiles_begin and tiles_end on the same thread.
void tiles_begin();
void tiles_end();
void product_amx(const Product& product, const StoreRows& epilogue);
void product_amx(const Product& product, const StoreGeluTiles& epilogue);
void product_amx(const Product& product, const AddRows& epilogue);
void product_amx(const Product& product, const StoreReluRows& epilogue);

// (x - mean) / sqrt(variance + 1e-6) of each of `rows` rows of width `dim` (a multiple of 32), AVX-512 with bf16.
// As tiles; gain and bias of the LayerNorm belong into the weights that follow.
void normalise_to_tiles(const float* x, int rows, int dim, bf16* tiles);
// As rows, times gain plus bias; row r goes to out + place[r] * dim.
void normalise_to_rows(const float* x, int rows, int dim, const float* gain, const float* bias, const std::int32_t* place, bf16* out);

}  // namespace esat::linear

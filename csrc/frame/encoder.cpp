#include "frame/encoder.h"

#include <algorithm>
#include <cstring>

#include "frame/share.h"

namespace esat::frame {

using linear::AddRows;
using linear::kPanel;
using linear::kPanelStep;
using linear::kTileDepth;
using linear::kTileRows;
using linear::Product;
using linear::StoreGeluTiles;
using linear::StoreRows;

namespace {

constexpr int kHiddenPart = 768;

constexpr int kPair = 2;  // tiles of rows that a product takes at once

int tiles_of(int rows) { return (rows + kTileRows - 1) / kTileRows; }

std::ptrdiff_t elements(int tile, int width) { return static_cast<std::ptrdiff_t>(tile) * kTileRows * width; }

// Activations in tile layout, `width` columns, the tiles from `tile` on.
Product from_tiles(const bf16* base, int width, int tile, int tiles, const std::vector<std::int32_t>& offsets) {
  Product product{};
  product.activation = base + elements(tile, width);
  product.tile_stride = elements(1, width);
  product.row_stride = kTileDepth;
  product.step_offset = offsets.data();
  product.first_tile = tile;
  product.tiles = tiles;
  product.steps = width / kTileDepth;
  return product;
}

// The same for plain rows.
Product from_rows(const bf16* base, int width, int tile, int tiles, const std::vector<std::int32_t>& offsets) {
  Product product = from_tiles(base, width, tile, tiles, offsets);
  product.row_stride = width;
  return product;
}

void set_weight(Product& product, const bf16* weight, int outputs, const bf16* next) {
  product.weight = weight;
  product.panel_stride = static_cast<std::ptrdiff_t>(product.steps) * kPanelStep;
  product.panels = outputs / kPanel;
  product.next_weight = next;
}

}  // namespace

int Encoder::hidden_part(int hidden) { return hidden % kHiddenPart == 0 ? kHiddenPart : hidden; }

Encoder::Encoder(int dim, int hidden, int patch_values, std::vector<LayerWeights> layers)
    : dim_(dim), hidden_(hidden), layers_(std::move(layers)) {
  const int widest = std::max({dim, hidden_part(hidden), patch_values});
  for (int step = 0; step < widest / kTileDepth; ++step) {
    in_tiles_.push_back(step * kTileRows * kTileDepth);
    in_rows_.push_back(step * kTileDepth);
  }
}

void Encoder::embed(const bf16* patches, int count, int width, const bf16* weight, const float* position, float* tokens) const {
#pragma omp parallel
  {
    linear::tiles_begin();
    const Share mine = share(0, tiles_of(count), kPair);
    Product product = from_rows(patches, width, mine.first, mine.count, in_rows_);
    set_weight(product, weight, dim_, layers_[0].qkv);
    const std::ptrdiff_t at = elements(mine.first, dim_);
    linear::product_amx(product, AddRows{tokens + at, position + at, dim_, nullptr});
    linear::tiles_end();
  }
}

void Encoder::qkv_rows(int layer, const float* tokens, int first_tile, int tiles, bf16* qkv, const Workspace& work) const {
  const std::ptrdiff_t at = elements(first_tile, dim_);
  linear::normalise_to_tiles(tokens + at, tiles * kTileRows, dim_, work.tiles + at);
  Product product = from_tiles(work.tiles, dim_, first_tile, tiles, in_tiles_);
  set_weight(product, layers_[layer].qkv, 3 * dim_, layers_[layer].projection);
  linear::product_amx(product, StoreRows{qkv + elements(first_tile, 3 * dim_), 3 * dim_, layers_[layer].qkv_bias});
}

void Encoder::qkv(int layer, const float* tokens, int count, bf16* qkv, const Workspace& work) const {
#pragma omp parallel
  {
    linear::tiles_begin();
    const Share mine = share(0, tiles_of(count), kPair);
    qkv_rows(layer, tokens, mine.first, mine.count, qkv, work);
    linear::tiles_end();
  }
}

void Encoder::finish_layer(int layer, const bf16* attended, float* tokens, int first, int count, bf16* next_qkv,
                           const Workspace& work) const {
  const LayerWeights& w = layers_[layer];
  const int part = hidden_part(hidden_);
  const int steps = part / kTileDepth;
#pragma omp parallel
  {
    linear::tiles_begin();
    const Share mine = share(first / kTileRows, tiles_of(count), kPair);
    const std::ptrdiff_t at = elements(mine.first, dim_);
    float* rows = tokens + at;

    Product product = from_rows(attended, dim_, mine.first, mine.count, in_rows_);
    set_weight(product, w.projection, dim_, w.mlp_in);
    linear::product_amx(product, AddRows{rows, rows, dim_, w.projection_bias});

    linear::normalise_to_tiles(rows, mine.count * kTileRows, dim_, work.tiles + at);
    for (int column = 0; column < hidden_; column += part) {
      const bf16* out_weight = w.mlp_out + static_cast<std::ptrdiff_t>(column) * kPanel;
      product = from_tiles(work.tiles, dim_, mine.first, mine.count, in_tiles_);
      set_weight(product, w.mlp_in + static_cast<std::ptrdiff_t>(column) * dim_, part, out_weight);
      linear::product_amx(product, StoreGeluTiles{work.hidden + elements(mine.first, part), steps, w.mlp_in_bias + column});

      const bool last = column + part == hidden_;
      product = from_tiles(work.hidden, part, mine.first, mine.count, in_tiles_);
      set_weight(product, out_weight, dim_, last ? nullptr : w.mlp_in + static_cast<std::ptrdiff_t>(column + part) * dim_);
      product.panel_stride = static_cast<std::ptrdiff_t>(hidden_) * kPanel;
      linear::product_amx(product, AddRows{rows, rows, dim_, column == 0 ? w.mlp_out_bias : nullptr});
    }
    if (next_qkv != nullptr) qkv_rows(layer + 1, tokens, mine.first, mine.count, next_qkv, work);
    linear::tiles_end();
  }
}

void gather_rows(const void* from, void* to, int row_bytes, int first, const std::int64_t* kept, int count) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
#pragma omp parallel
  {
    const Share mine = share(0, first + count);
    for (int i = mine.first; i < mine.first + mine.count; ++i) {
      const std::int64_t row = i < first ? i : first + kept[i - first];
      std::memcpy(target + static_cast<std::ptrdiff_t>(i) * row_bytes, source + row * row_bytes, row_bytes);
    }
  }
}

}  // namespace esat::frame

#include "frame/head.h"

#include "frame/share.h"

namespace esat::frame {

using linear::kPanel;
using linear::kPanelStep;
using linear::kTileDepth;
using linear::kTileRows;

namespace {

constexpr int kTaps = 9;
constexpr int kManyTiles = 16;  // from here on rows are shared out, since every thread then reads each weight panel for enough rows

}  // namespace

void convolve(const bf16* input, const Convolution& convolution, const Raster& raster, bf16* output) {
  const int channel_steps = convolution.inputs / kTileDepth;
  std::vector<std::int32_t> offsets;
  offsets.reserve(static_cast<std::size_t>(kTaps) * channel_steps);
  for (int tap = 0; tap < kTaps; ++tap) {
    for (int step = 0; step < channel_steps; ++step) {
      offsets.push_back((tap / 3 * raster.width + tap % 3) * convolution.inputs + step * kTileDepth);
    }
  }
  const int tiles = (raster.pixels + kTileRows - 1) / kTileRows;
  const int panels = convolution.outputs / kPanel;
#pragma omp parallel
  {
    linear::tiles_begin();
    const Share rows = tiles >= kManyTiles ? share(0, tiles, 2) : Share{0, tiles};
    const Share columns = tiles >= kManyTiles ? Share{0, panels} : share(0, panels);
    const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(rows.first) * kTileRows;
    linear::Product product{};
    product.activation = input + pixel * convolution.inputs;
    product.tile_stride = static_cast<std::ptrdiff_t>(kTileRows) * convolution.inputs;
    product.row_stride = convolution.inputs;
    product.step_offset = offsets.data();
    product.first_tile = rows.first;
    product.tiles = rows.count;
    product.steps = kTaps * channel_steps;
    product.panel_stride = static_cast<std::ptrdiff_t>(product.steps) * kPanelStep;
    product.weight = convolution.weight + columns.first * product.panel_stride;
    product.panels = columns.count;
    linear::StoreReluRows epilogue{};
    epilogue.out = output + (pixel + raster.shift) * convolution.outputs + columns.first * kPanel;
    epilogue.stride = convolution.outputs;
    epilogue.bias = convolution.bias + columns.first * kPanel;
    epilogue.valid = raster.valid + pixel;
    epilogue.rows = raster.pixels - static_cast<int>(pixel);
    linear::product_amx(product, epilogue);
    linear::tiles_end();
  }
}

}  // namespace esat::frame

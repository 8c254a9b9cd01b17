#include "layers/convolution.h"

#include "common/threads.h"

namespace esat::layers {

using linear::kPanel;
using linear::kPanelStep;
using linear::kTileDepth;
using linear::kTileRows;

namespace {

constexpr int kTaps = 9;
constexpr int kManyRows = 256;  // from here on rows are shared out, since every thread then reads each weight panel for enough rows

}  // namespace

template <class T>
void convolve(const linear::Kernels<T>& kernels, const T* input, const Convolution<T>& convolution, const Raster& raster, T* output) {
  const int channel_steps = convolution.inputs / kTileDepth<T>;
  std::vector<std::int32_t> offsets;
  offsets.reserve(static_cast<std::size_t>(kTaps) * channel_steps);
  for (int tap = 0; tap < kTaps; ++tap) {
    for (int step = 0; step < channel_steps; ++step) {
      offsets.push_back((tap / 3 * raster.width + tap % 3) * convolution.inputs + step * kTileDepth<T>);
    }
  }
  const int unit = kernels.whole_rows;
  const int pixels = (raster.pixels + unit - 1) / unit * unit;
  const int panels = convolution.outputs / kPanel;
#pragma omp parallel
  {
    kernels.begin();
    const Share rows = pixels >= kManyRows ? share(0, pixels, 2 * unit) : Share{0, pixels};
    const Share columns = pixels >= kManyRows ? Share{0, panels} : share(0, panels);
    const std::ptrdiff_t pixel = rows.first;
    linear::Product<T> product{};
    product.activation = input + pixel * convolution.inputs;
    product.tile_stride = static_cast<std::ptrdiff_t>(kTileRows) * convolution.inputs;
    product.row_stride = convolution.inputs;
    product.step_offset = offsets.data();
    product.first_tile = rows.first / kTileRows;
    product.rows = rows.count;
    product.steps = kTaps * channel_steps;
    product.panel_stride = static_cast<std::ptrdiff_t>(product.steps) * kPanelStep<T>;
    product.weight = convolution.weight + columns.first * product.panel_stride;
    product.panels = columns.count;
    linear::StoreReluRows<T> epilogue{};
    epilogue.out = output + (pixel + raster.shift) * convolution.outputs + columns.first * kPanel;
    epilogue.stride = convolution.outputs;
    epilogue.bias = convolution.bias + columns.first * kPanel;
    epilogue.valid = raster.valid + pixel;
    epilogue.rows = raster.pixels - static_cast<int>(pixel);
    kernels.store_relu(product, epilogue);
    kernels.end();
  }
}

template void convolve<float>(const linear::Kernels<float>&, const float*, const Convolution<float>&, const Raster&, float*);
template void convolve<linear::bf16>(const linear::Kernels<linear::bf16>&, const linear::bf16*, const Convolution<linear::bf16>&,
                                     const Raster&, linear::bf16*);

}  // namespace esat::layers

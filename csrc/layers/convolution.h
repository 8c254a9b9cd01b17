// A 3 x 3 convolution with ReLU of the centre head, as an implicit matrix product.
//
// A map is stored as a raster of pixels [rows * width][channels] with its border. Output pixel r of a 3 x 3 convolution reads the input
// pixels r + dy * width + dx, whatever r is: nine shifted views of the same rows, so that a product loads its operands from the map
// itself. The last two columns of each row come out as garbage and are written as zeros, which the next layer needs as its border anyway.
#pragma once

#include <cstdint>
#include <vector>

#include "linear/linear.h"

namespace esat::layers {

// Packed [outputs, 9 inputs] over (dy, dx, channel); inputs and outputs are multiples of 32, batch norm is folded in.
template <class T>
struct Convolution {
  const T* weight;
  const float* bias;
  int inputs;
  int outputs;
};

// Where a convolution finds its pixels and which of its outputs exist.
struct Raster {
  int width;                  // pixels in a row of the raster, input and output
  int pixels;                 // outputs 0 .. pixels - 1 are computed
  int shift;                  // output r is written at pixel r + shift
  const std::uint8_t* valid;  // [pixels] zero for outputs that lie outside the image
};

// input [.., inputs] -> output [.., outputs]. The input must be readable for 2 width + 2 + 16 pixels behind the last output's own.
// The threads share rows out where there are many, panels of outputs otherwise.
template <class T>
void convolve(const linear::Kernels<T>& kernels, const T* input, const Convolution<T>& convolution, const Raster& raster, T* output);

}  // namespace esat::layers

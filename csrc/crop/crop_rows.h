// What one instruction set offers for a row of the output. Every set gives the same bits.
#pragma once

#include <cstdint>

#include "crop/crop.h"

namespace esat::crop {

constexpr int kSlack = 16;  // elements that vector stores may write past the end of a scratch row
constexpr int kRowElements = 3 * kMaxCropSize + kSlack;

// Where the two source pixels of each output column lie, and their weights. Pixels outside the frame weigh nothing.
struct Columns {
  int count;                         // padded to a multiple of 4 by columns that weigh nothing
  int32_t offset[kMaxCropSize];      // bytes from the row's start to the left one of two adjacent pixels
  int16_t weight[kMaxCropSize * 2];  // of the left and the right pixel, 0 to 2048
};

struct RowKernels {
  // out[3 x + c] = (left * weight + right * weight) >> 4, in 0 to 32640. Reads 8 bytes at each offset.
  void (*horizontal)(const uint8_t* row, int pixel_stride, const Columns& columns, int16_t* out);
  // out[i] = (upper * weight / 2^16 + lower * weight / 2^16 + 2) / 4, each division rounding down.
  void (*vertical)(const int16_t* upper, const int16_t* lower, int upper_weight, int lower_weight, int count, uint8_t* out);
  // One row of `size` pixels, number y of the crop, into the patches that it crosses, which hold float32 or bfloat16.
  void (*to_float_patches)(const uint8_t* pixels, int y, int size, const PatchParams& patches);
  void (*to_bfloat16_patches)(const uint8_t* pixels, int y, int size, const PatchParams& patches);
};

extern const RowKernels rows_portable;
#if defined(__x86_64__)
extern const RowKernels rows_avx2;
#elif defined(__aarch64__)
extern const RowKernels rows_neon;
#endif

// The first element of row y of the leftmost patch that it crosses, in channel 0.
inline int64_t patch_row_offset(int y, int size, int64_t out_stride) {
  return int64_t{y / kPatchSize} * (size / kPatchSize) * out_stride + (y % kPatchSize) * kPatchSize;
}

}  // namespace esat::crop

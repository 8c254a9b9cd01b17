// A square region of a frame, black outside, resized bilinearly as OpenCV's INTER_LINEAR does on 8-bit images: bit for bit.
// Only the pixels that the output needs are read; the scratch memory depends on the output's size alone, and of two planes on the frame's
// width.
#pragma once

#include <cstdint>

#include "common/kernel_table.h"

namespace esat {

constexpr int kMaxCropSize = 2048;  // output pixels a side: scratch rows live on the stack
constexpr int kPatchSize = 16;

// Of a frame in two planes (NV12, limited range): red = (luma max(y - 16, 0) + v_red (v - 128)) / 2^20, rounded and clamped to a byte, and
// so on.
struct YuvMatrix {
  int32_t luma, v_red, v_green, u_green, u_blue;
};

struct CropParams {
  const uint8_t* frame;  // [frame_height, frame_width, 3], channels adjacent; of two planes, the luma [frame_height, frame_width]
  int64_t frame_height;
  int64_t frame_width;   // below 2^29: offsets within a row are 32-bit
  int64_t row_stride;    // bytes, at least frame_width * pixel_stride
  int64_t pixel_stride;  // bytes, 3 or 4; 1 of two planes
  int64_t left;          // the region's upper left corner in frame pixels; may lie outside the frame
  int64_t top;
  int64_t side;  // of the region in frame pixels, at least 1
  int64_t size;  // of the output in pixels, 1 to kMaxCropSize

  const uint8_t* chroma = nullptr;  // [ceil(frame_height / 2), ceil(frame_width / 2), 2], u and v; null: one plane of three channels
  int64_t chroma_stride = 0;        // bytes from row to row
  YuvMatrix matrix = {};            // the output of two planes is red, green, blue
};

// out: [size, size, 3], channels in the frame's order.
void crop_image(const CropParams& params, uint8_t* out, Features have);

struct PatchParams {
  void* out;           // [(size / 16)^2, 3 * 16 * 16], rows of patches; within one (channel, y, x) as in a convolution's weight
  int64_t out_stride;  // elements from one patch to the next
  bool bfloat16;       // else float32
  bool reverse;        // channels of the frame are read in reverse order (BGR frames to RGB rows)
  float scale[3];      // value = pixel * scale + bias with one rounding, for each channel of the output
  float bias[3];
};

// params.size must be a multiple of 16.
void crop_patches(const CropParams& params, const PatchParams& patches, Features have);

namespace crop {
std::vector<Choice> choices(Features have);
}

}  // namespace esat

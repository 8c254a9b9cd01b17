#include <cmath>

#include "common/bfloat16.h"
#include "crop/crop_rows.h"

namespace esat::crop {
namespace {

void horizontal(const uint8_t* row, int pixel_stride, const Columns& columns, int16_t* out) {
  for (int x = 0; x < columns.count; ++x) {
    const uint8_t* left = row + columns.offset[x];
    const uint8_t* right = left + pixel_stride;
    const int w0 = columns.weight[2 * x];
    const int w1 = columns.weight[2 * x + 1];
    for (int c = 0; c < 3; ++c) out[3 * x + c] = static_cast<int16_t>((left[c] * w0 + right[c] * w1) >> 4);
  }
}

void vertical(const int16_t* upper, const int16_t* lower, int upper_weight, int lower_weight, int count, uint8_t* out) {
  for (int i = 0; i < count; ++i) {
    out[i] = static_cast<uint8_t>((((upper[i] * upper_weight) >> 16) + ((lower[i] * lower_weight) >> 16) + 2) >> 2);
  }
}

template <class T>
void write_patches(const uint8_t* pixels, int y, int size, const PatchParams& patches) {
  T* out = static_cast<T*>(patches.out) + patch_row_offset(y, size, patches.out_stride);
  for (int c = 0; c < 3; ++c) {
    const uint8_t* source = pixels + (patches.reverse ? 2 - c : c);
    for (int x = 0; x < size; ++x) {
      const float value = std::fma(static_cast<float>(source[3 * x]), patches.scale[c], patches.bias[c]);
      T& target = out[(x / kPatchSize) * patches.out_stride + c * kPatchSize * kPatchSize + x % kPatchSize];
      if constexpr (sizeof(T) == 2) {
        target = to_bfloat16(value);
      } else {
        target = value;
      }
    }
  }
}

}  // namespace

const RowKernels rows_portable{horizontal, vertical, write_patches<float>, write_patches<uint16_t>};

}  // namespace esat::crop

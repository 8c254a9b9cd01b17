#include <arm_neon.h>

#include "crop/crop_rows.h"

namespace esat::crop {
namespace {

// The bytes at `base` and `base` + 8 and the two behind each, as 16-bit values of the three channels of two pixels; the fourth is zero.
uint8x16_t pixel_mask(int base) {
  const auto at = [base](int channel) { return static_cast<uint8_t>(base + channel); };
  const uint8_t z = 0xff;
  const uint8_t bytes[16] = {at(0), z, at(1), z, at(2), z, z, z, at(8), z, at(9), z, at(10), z, z, z};
  return vld1q_u8(bytes);
}

void horizontal(const uint8_t* row, int pixel_stride, const Columns& columns, int16_t* out) {
  const uint8x16_t left_mask = pixel_mask(0), right_mask = pixel_mask(pixel_stride);
  for (int x = 0; x < columns.count; x += 2) {
    const uint8x16_t pixels = vcombine_u8(vld1_u8(row + columns.offset[x]), vld1_u8(row + columns.offset[x + 1]));
    const int16x8_t left = vreinterpretq_s16_u8(vqtbl1q_u8(pixels, left_mask));
    const int16x8_t right = vreinterpretq_s16_u8(vqtbl1q_u8(pixels, right_mask));
    const int16_t* weight = columns.weight + 2 * x;
    const int32x4_t first = vmlal_n_s16(vmull_n_s16(vget_low_s16(left), weight[0]), vget_low_s16(right), weight[1]);
    const int32x4_t second = vmlal_n_s16(vmull_n_s16(vget_high_s16(left), weight[2]), vget_high_s16(right), weight[3]);
    // Each store writes one element too many, which the next one or the row's slack takes.
    vst1_s16(out + 3 * x, vshrn_n_s32(first, 4));
    vst1_s16(out + 3 * x + 3, vshrn_n_s32(second, 4));
  }
}

// x * weight / 2^16 rounding down, by the instruction that doubles its product.
int16x8_t high_product(int16x8_t x, int16_t weight) { return vshrq_n_s16(vqdmulhq_n_s16(x, weight), 1); }

void vertical(const int16_t* upper, const int16_t* lower, int upper_weight, int lower_weight, int count, uint8_t* out) {
  const int16_t w0 = static_cast<int16_t>(upper_weight), w1 = static_cast<int16_t>(lower_weight);
  for (int i = 0; i < count; i += 16) {
    const int16x8_t low = vaddq_s16(high_product(vld1q_s16(upper + i), w0), high_product(vld1q_s16(lower + i), w1));
    const int16x8_t high = vaddq_s16(high_product(vld1q_s16(upper + i + 8), w0), high_product(vld1q_s16(lower + i + 8), w1));
    vst1q_u8(out + i, vcombine_u8(vqrshrun_n_s16(low, 2), vqrshrun_n_s16(high, 2)));
  }
}

float32x4_t affine(uint16x4_t values, float32x4_t scale, float32x4_t bias) {
  return vfmaq_f32(bias, vcvtq_f32_u32(vmovl_u16(values)), scale);
}

// Ties to even.
uint16x4_t round_to_bfloat16(float32x4_t value) {
  const uint32x4_t bits = vreinterpretq_u32_f32(value);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  return vshrn_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
}

void store(float* out, float32x4_t value) { vst1q_f32(out, value); }
void store(uint16_t* out, float32x4_t value) { vst1_u16(out, round_to_bfloat16(value)); }

template <class T>
void write_patches(const uint8_t* pixels, int y, int size, const PatchParams& patches) {
  T* out = static_cast<T*>(patches.out) + patch_row_offset(y, size, patches.out_stride);
  for (int x = 0; x < size; x += kPatchSize, out += patches.out_stride) {
    const uint8x16x3_t channel = vld3q_u8(pixels + 3 * x);
    for (int c = 0; c < 3; ++c) {
      const uint8x16_t bytes = channel.val[patches.reverse ? 2 - c : c];
      const float32x4_t scale = vdupq_n_f32(patches.scale[c]), bias = vdupq_n_f32(patches.bias[c]);
      const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
      T* to = out + c * kPatchSize * kPatchSize;
      store(to, affine(vget_low_u16(low), scale, bias));
      store(to + 4, affine(vget_high_u16(low), scale, bias));
      store(to + 8, affine(vget_low_u16(high), scale, bias));
      store(to + 12, affine(vget_high_u16(high), scale, bias));
    }
  }
}

}  // namespace

const RowKernels rows_neon{horizontal, vertical, write_patches<float>, write_patches<uint16_t>};

}  // namespace esat::crop

#include <immintrin.h>

#include "crop/crop_rows.h"

namespace esat::crop {
namespace {

// Bytes of one pixel pair, loaded at `base` of each 128-bit lane, as 16-bit (left, right) pairs of the three channels; the rest is zero.
__m256i pair_mask(int base, int pixel_stride) {
  const char l = static_cast<char>(base);
  const char r = static_cast<char>(base + pixel_stride);
  const char z = -1;
  const __m128i lane = _mm_setr_epi8(l, z, r, z, l + 1, z, r + 1, z, l + 2, z, r + 2, z, z, z, z, z);
  return _mm256_broadcastsi128_si256(lane);
}

__m128i load_two(const uint8_t* first, const uint8_t* second) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
  const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(second));
  return _mm_unpacklo_epi64(low, high);
}

void horizontal(const uint8_t* row, int pixel_stride, const Columns& columns, int16_t* out) {
  const __m256i even_mask = pair_mask(0, pixel_stride);
  const __m256i odd_mask = pair_mask(8, pixel_stride);
  const __m256i even_weights = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
  const __m256i odd_weights = _mm256_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3);
  const __m256i compress = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, -1, -1, -1, -1));
  for (int x = 0; x < columns.count; x += 4) {
    const int32_t* offset = columns.offset + x;
    const __m256i pixels = _mm256_set_m128i(load_two(row + offset[2], row + offset[3]), load_two(row + offset[0], row + offset[1]));
    const __m256i weights = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(columns.weight + 2 * x)));
    const __m256i even = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, even_mask), _mm256_permutevar8x32_epi32(weights, even_weights));
    const __m256i odd = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, odd_mask), _mm256_permutevar8x32_epi32(weights, odd_weights));
    const __m256i packed = _mm256_packs_epi32(_mm256_srai_epi32(even, 4), _mm256_srai_epi32(odd, 4));
    const __m256i values = _mm256_shuffle_epi8(packed, compress);
    // Each store writes two elements too many, which the next one or the row's slack takes.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * x), _mm256_castsi256_si128(values));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * x + 6), _mm256_extracti128_si256(values, 1));
  }
}

void vertical(const int16_t* upper, const int16_t* lower, int upper_weight, int lower_weight, int count, uint8_t* out) {
  const __m256i w0 = _mm256_set1_epi16(static_cast<int16_t>(upper_weight));
  const __m256i w1 = _mm256_set1_epi16(static_cast<int16_t>(lower_weight));
  const __m256i two = _mm256_set1_epi16(2);
  for (int i = 0; i < count; i += 16) {
    const __m256i high = _mm256_mulhi_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(upper + i)), w0);
    const __m256i low = _mm256_mulhi_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(lower + i)), w1);
    const __m256i sum = _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(high, low), two), 2);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bytes);
  }
}

// Sixteen interleaved pixels (48 bytes) as 16 bytes of each channel.
void split_channels(const uint8_t* pixels, __m128i channel[3]) {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 16));
  const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + 32));
  const auto join = [&](__m128i from_a, __m128i from_b, __m128i from_c) {
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, from_a), _mm_shuffle_epi8(b, from_b)), _mm_shuffle_epi8(c, from_c));
  };
  const char z = -1;
  channel[0] =
      join(_mm_setr_epi8(0, 3, 6, 9, 12, 15, z, z, z, z, z, z, z, z, z, z), _mm_setr_epi8(z, z, z, z, z, z, 2, 5, 8, 11, 14, z, z, z, z, z),
           _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, 1, 4, 7, 10, 13));
  channel[1] =
      join(_mm_setr_epi8(1, 4, 7, 10, 13, z, z, z, z, z, z, z, z, z, z, z), _mm_setr_epi8(z, z, z, z, z, 0, 3, 6, 9, 12, 15, z, z, z, z, z),
           _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, 2, 5, 8, 11, 14));
  channel[2] =
      join(_mm_setr_epi8(2, 5, 8, 11, 14, z, z, z, z, z, z, z, z, z, z, z), _mm_setr_epi8(z, z, z, z, z, 1, 4, 7, 10, 13, z, z, z, z, z, z),
           _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, 0, 3, 6, 9, 12, 15));
}

__m256 affine(__m128i bytes, __m256 scale, __m256 bias) {
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), scale, bias);
}

// Eight floats as bfloat16 in the low half of each 32 bits, ties to even.
__m256i round_to_bfloat16(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}

void store(float* out, __m256 first, __m256 second) {
  _mm256_storeu_ps(out, first);
  _mm256_storeu_ps(out + 8, second);
}

void store(uint16_t* out, __m256 first, __m256 second) {
  const __m256i packed = _mm256_packus_epi32(round_to_bfloat16(first), round_to_bfloat16(second));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(packed, 0xd8));
}

template <class T>
void write_patches(const uint8_t* pixels, int y, int size, const PatchParams& patches) {
  T* out = static_cast<T*>(patches.out) + patch_row_offset(y, size, patches.out_stride);
  for (int x = 0; x < size; x += kPatchSize, out += patches.out_stride) {
    __m128i channel[3];
    split_channels(pixels + 3 * x, channel);
#pragma GCC unroll 3
    for (int c = 0; c < 3; ++c) {  // the channels stay in registers: what is reversed are their places
      const int place = patches.reverse ? 2 - c : c;
      const __m256 scale = _mm256_set1_ps(patches.scale[place]);
      const __m256 bias = _mm256_set1_ps(patches.bias[place]);
      store(out + place * kPatchSize * kPatchSize, affine(channel[c], scale, bias), affine(_mm_srli_si128(channel[c], 8), scale, bias));
    }
  }
}

}  // namespace

const RowKernels rows_avx2{horizontal, vertical, write_patches<float>, write_patches<uint16_t>};

}  // namespace esat::crop

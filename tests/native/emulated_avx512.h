// AVX-512, its products of bytes and of bf16, AVX-VNNI's and the tiles of AMX on a processor with AVX2 alone: CMakeLists.txt puts this in
// front of the kernels' own sources, so that what they compute is tested everywhere. Follows Intel's Intrinsics Guide lane by lane. What is
// not here does not compile, since the compiler knows no such instruction. Rounding is to nearest even; bf16's flushing of the smallest
// numbers is left out.
//
// ESAT_EMULATED_SET: 512, 512 with VNNI (513), and with bf16 (514), and with AMX (515); 256 with VNNI (256).
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulated_lanes.h"

#define ESAT_LANES(...) esat::emulation::each([&](int i) { return __VA_ARGS__; })

namespace esat::emulation::instructions {

using W = Words;
inline W words(__m512i x) { return as<W>(x); }

inline __m512 setzero_ps() { return Floats{}; }
inline __m512 set1_ps(float x) { return x - Floats{}; }  // -0 stays
inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 div_ps(__m512 a, __m512 b) { return a / b; }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) { return fma(a, b, c); }
inline __m512 fnmadd_ps(__m512 a, __m512 b, __m512 c) { return fma(-a, b, c); }
inline __m512 max_ps(__m512 a, __m512 b) { return larger(a, b); }
inline __m512 min_ps(__m512 a, __m512 b) { return smaller(a, b); }
inline __m512 range_ps(__m512 a, __m512 b, int imm) {  // the maximum, a number where one is
  if (imm != 0b0101) __builtin_trap();
  return ESAT_LANES(std::isnan(a[i]) || b[i] > a[i] ? b[i] : a[i]);
}
inline __m512 roundscale_ps(__m512 x, int imm) { return ESAT_LANES(rounded(x[i], imm)); }
inline __m512 reduce_ps(__m512 x, int imm) { return ESAT_LANES(std::isinf(x[i]) ? 0.0F : x[i] - rounded(x[i], imm)); }
inline __m512 scalef_ps(__m512 a, __m512 b) { return ESAT_LANES(scaled_by(a[i], b[i])); }
inline __m512 getmant_ps(__m512 x, int interval, int sign) {
  if (interval != _MM_MANT_NORM_p75_1p5 || sign != _MM_MANT_SIGN_zero) __builtin_trap();
  return ESAT_LANES(mantissa(x[i]));
}
inline __m512 getexp_ps(__m512 x) { return ESAT_LANES(exponent(x[i])); }
inline float reduce_add_ps(__m512 x) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  }
  return x[0];
}
inline float reduce_max_ps(__m512 x) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  }
  return x[0];
}

inline __m512 loadu_ps(const void* p) { return load<__m512>(p); }
inline void storeu_ps(void* p, __m512 x) { store(p, x); }
inline __m512i loadu_si512(const void* p) { return load<__m512i>(p); }
inline void storeu_si512(void* p, __m512i x) { store(p, x); }
inline bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }
inline void need(bool good) {  // as the instruction faults
  if (!good) __builtin_trap();
}
inline __m512 load_ps(const void* p) { return need(aligned(p)), load<__m512>(p); }
inline void store_ps(void* p, __m512 x) { need(aligned(p)), store(p, x); }
inline __m512i load_si512(const void* p) { return need(aligned(p)), load<__m512i>(p); }
inline void store_si512(void* p, __m512i x) { need(aligned(p)), store(p, x); }

inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int how) { return static_cast<__mmask16>(compared(a, b, how)); }
inline __mmask16 mask_cmp_ps_mask(__mmask16 mask, __m512 a, __m512 b, int how) {
  return static_cast<__mmask16>(mask & compared(a, b, how));
}
inline __m512 mask_mov_ps(__m512 other, __mmask16 mask, __m512 x) { return ESAT_LANES(has(mask, i) ? x[i] : other[i]); }
inline __m512 mask_mul_ps(__m512 other, __mmask16 mask, __m512 a, __m512 b) { return mask_mov_ps(other, mask, a * b); }
inline __m512 maskz_loadu_ps(__mmask16 mask, const float* p) { return ESAT_LANES(has(mask, i) ? p[i] : 0.0F); }
inline void mask_storeu_ps(float* p, __mmask16 mask, __m512 x) {
  for (int i = 0; i < 16; ++i) {
    if (has(mask, i)) p[i] = x[i];
  }
}
inline __m512i maskz_loadu_epi16(__mmask32 mask, const void* p) {
  std::uint16_t out[32];
  load_halves(out, mask, static_cast<const std::uint16_t*>(p));
  return load<__m512i>(out);
}
inline __m256i maskz_loadu_epi16_256(__mmask16 mask, const void* p) {
  std::uint16_t out[16];
  load_halves(out, mask, static_cast<const std::uint16_t*>(p));
  return load<__m256i>(out);
}
inline void mask_storeu_epi16_256(void* p, __mmask16 mask, __m256i x) {
  std::uint16_t in[16];
  std::memcpy(in, &x, sizeof in);
  for (int i = 0; i < 16; ++i) {
    if (has(mask, i)) static_cast<std::uint16_t*>(p)[i] = in[i];
  }
}

inline __m512 castsi512_ps(__m512i x) { return as<__m512>(x); }
inline __m512i castps_si512(__m512 x) { return as<__m512i>(x); }
inline __m512i setzero_si512() { return __m512i{}; }
inline __m512i set1_epi32(int x) { return as<__m512i>(x - W{}); }
inline __m512i add_epi32(__m512i a, __m512i b) { return as<__m512i>(as<__v16su>(a) + as<__v16su>(b)); }
inline __m512i sub_epi32(__m512i a, __m512i b) { return as<__m512i>(as<__v16su>(a) - as<__v16su>(b)); }
inline __m512i mullo_epi32(__m512i a, __m512i b) { return as<__m512i>(as<__v16su>(a) * as<__v16su>(b)); }
inline __m512i max_epi32(__m512i a, __m512i b) { return as<__m512i>(words(a) > words(b) ? words(a) : words(b)); }
inline __m512i and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i slli_epi32(__m512i x, unsigned count) { return as<__m512i>(as<__v16su>(x) << count); }
inline __m512i srli_epi32(__m512i x, unsigned count) { return as<__m512i>(as<__v16su>(x) >> count); }
inline __m512 cvtepi32_ps(__m512i x) { return ESAT_LANES(static_cast<float>(words(x)[i])); }
inline __m512i cvtps_epi32(__m512 x) {
  return each_word([&](int i) {
    const bool inside = std::fabs(x[i]) < 2147483648.0F;  // false for NaN
    return inside ? static_cast<int>(std::nearbyint(x[i])) : std::numeric_limits<int>::min();
  });
}
inline __m128i cvtusepi32_epi8(__m512i x) {
  std::uint8_t out[16];
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t value = static_cast<std::uint32_t>(words(x)[i]);
    out[i] = static_cast<std::uint8_t>(value < 255 ? value : 255);
  }
  return load<__m128i>(out);
}
inline __m512i cvtepu16_epi32(__m256i x) {
  std::uint16_t in[16];
  std::memcpy(in, &x, sizeof in);
  return each_word([&](int i) { return in[i]; });
}
inline __m512i mask_blend_epi16(__mmask32 mask, __m512i a, __m512i b) {
  const Halves x = as<Halves>(a), y = as<Halves>(b);
  Halves out;
  for (int i = 0; i < 32; ++i) out[i] = has(mask, i) ? y[i] : x[i];
  return as<__m512i>(out);
}
inline __m512i permutexvar_epi16(__m512i order, __m512i x) {
  const Halves at = as<Halves>(order), from = as<Halves>(x);
  Halves out;
  for (int i = 0; i < 32; ++i) out[i] = from[at[i] & 31];
  return as<__m512i>(out);
}
inline __m512i unpacklo_epi32(__m512i a, __m512i b) { return as<__m512i>(unpack<W, 4>(words(a), words(b), 0)); }
inline __m512i unpackhi_epi32(__m512i a, __m512i b) { return as<__m512i>(unpack<W, 4>(words(a), words(b), 2)); }
inline __m512i unpacklo_epi64(__m512i a, __m512i b) { return unpack<__m512i, 2>(a, b, 0); }
inline __m512i unpackhi_epi64(__m512i a, __m512i b) { return unpack<__m512i, 2>(a, b, 1); }
inline __m512i shuffle_i32x4(__m512i a, __m512i b, int imm) {
  const W x = words(a), y = words(b);
  return each_word([&](int i) {
    const int from = 4 * (imm >> i / 4 * 2 & 3) + i % 4;  // by itself: within the brackets g++ 12 loses it under -fsanitize=shift
    return i < 8 ? x[from] : y[from];
  });
}

inline __m512 dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const W x = as<W>(a), y = as<W>(b);
  return ESAT_LANES(pair_product(x[i], y[i], sum[i]));
}
inline __m256bh cvtneps_pbh(__m512 x) { return as<__m256bh>(narrow(x)); }
inline __m512bh cvtne2ps_pbh(__m512 high, __m512 low) {
  struct Two {
    __m256i low, high;
  };
  return as<__m512bh>(Two{narrow(low), narrow(high)});
}
inline __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const W s = words(sum), x = words(a), y = words(b);
  return each_word([&](int i) { return quad_product(x[i], y[i], s[i]); });
}
inline __m256i dpbusd_epi32_256(__m256i sum, __m256i a, __m256i b) {
  const __v8si s = as<__v8si>(sum), x = as<__v8si>(a), y = as<__v8si>(b);
  __v8si out;
  for (int i = 0; i < 8; ++i) out[i] = quad_product(x[i], y[i], s[i]);
  return as<__m256i>(out);
}

}  // namespace esat::emulation::instructions

#undef ESAT_LANES
#define ESAT_INSTRUCTION(name) esat::emulation::instructions::name
#undef _mm512_setzero_ps
#undef _mm512_set1_ps
#undef _mm512_add_ps
#undef _mm512_sub_ps
#undef _mm512_mul_ps
#undef _mm512_div_ps
#undef _mm512_fmadd_ps
#undef _mm512_fnmadd_ps
#undef _mm512_max_ps
#undef _mm512_min_ps
#undef _mm512_range_ps
#undef _mm512_roundscale_ps
#undef _mm512_reduce_ps
#undef _mm512_scalef_ps
#undef _mm512_getmant_ps
#undef _mm512_getexp_ps
#undef _mm512_reduce_add_ps
#undef _mm512_reduce_max_ps
#undef _mm512_loadu_ps
#undef _mm512_storeu_ps
#undef _mm512_loadu_si512
#undef _mm512_storeu_si512
#undef _mm512_load_ps
#undef _mm512_store_ps
#undef _mm512_load_si512
#undef _mm512_store_si512
#undef _mm512_cmp_ps_mask
#undef _mm512_mask_cmp_ps_mask
#undef _mm512_mask_mov_ps
#undef _mm512_mask_mul_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_epi16
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16
#undef _mm512_castsi512_ps
#undef _mm512_castps_si512
#undef _mm512_setzero_si512
#undef _mm512_set1_epi32
#undef _mm512_add_epi32
#undef _mm512_sub_epi32
#undef _mm512_mullo_epi32
#undef _mm512_max_epi32
#undef _mm512_and_si512
#undef _mm512_or_si512
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtps_epi32
#undef _mm512_cvtusepi32_epi8
#undef _mm512_cvtepu16_epi32
#undef _mm512_mask_blend_epi16
#undef _mm512_permutexvar_epi16
#undef _mm512_unpacklo_epi32
#undef _mm512_unpackhi_epi32
#undef _mm512_unpacklo_epi64
#undef _mm512_unpackhi_epi64
#undef _mm512_shuffle_i32x4
#undef _mm512_dpbf16_ps
#undef _mm512_cvtneps_pbh
#undef _mm512_cvtne2ps_pbh
#undef _mm512_dpbusd_epi32
#undef _mm256_dpbusd_avx_epi32
#undef _mm512_set_epi16
#define _mm512_setzero_ps ESAT_INSTRUCTION(setzero_ps)
#define _mm512_set1_ps ESAT_INSTRUCTION(set1_ps)
#define _mm512_add_ps ESAT_INSTRUCTION(add_ps)
#define _mm512_sub_ps ESAT_INSTRUCTION(sub_ps)
#define _mm512_mul_ps ESAT_INSTRUCTION(mul_ps)
#define _mm512_div_ps ESAT_INSTRUCTION(div_ps)
#define _mm512_fmadd_ps ESAT_INSTRUCTION(fmadd_ps)
#define _mm512_fnmadd_ps ESAT_INSTRUCTION(fnmadd_ps)
#define _mm512_max_ps ESAT_INSTRUCTION(max_ps)
#define _mm512_min_ps ESAT_INSTRUCTION(min_ps)
#define _mm512_range_ps ESAT_INSTRUCTION(range_ps)
#define _mm512_roundscale_ps ESAT_INSTRUCTION(roundscale_ps)
#define _mm512_reduce_ps ESAT_INSTRUCTION(reduce_ps)
#define _mm512_scalef_ps ESAT_INSTRUCTION(scalef_ps)
#define _mm512_getmant_ps ESAT_INSTRUCTION(getmant_ps)
#define _mm512_getexp_ps ESAT_INSTRUCTION(getexp_ps)
#define _mm512_reduce_add_ps ESAT_INSTRUCTION(reduce_add_ps)
#define _mm512_reduce_max_ps ESAT_INSTRUCTION(reduce_max_ps)
#define _mm512_loadu_ps ESAT_INSTRUCTION(loadu_ps)
#define _mm512_storeu_ps ESAT_INSTRUCTION(storeu_ps)
#define _mm512_loadu_si512 ESAT_INSTRUCTION(loadu_si512)
#define _mm512_storeu_si512 ESAT_INSTRUCTION(storeu_si512)
#define _mm512_load_ps ESAT_INSTRUCTION(load_ps)
#define _mm512_store_ps ESAT_INSTRUCTION(store_ps)
#define _mm512_load_si512 ESAT_INSTRUCTION(load_si512)
#define _mm512_store_si512 ESAT_INSTRUCTION(store_si512)
#define _mm512_cmp_ps_mask ESAT_INSTRUCTION(cmp_ps_mask)
#define _mm512_mask_cmp_ps_mask ESAT_INSTRUCTION(mask_cmp_ps_mask)
#define _mm512_mask_mov_ps ESAT_INSTRUCTION(mask_mov_ps)
#define _mm512_mask_mul_ps ESAT_INSTRUCTION(mask_mul_ps)
#define _mm512_maskz_loadu_ps ESAT_INSTRUCTION(maskz_loadu_ps)
#define _mm512_mask_storeu_ps ESAT_INSTRUCTION(mask_storeu_ps)
#define _mm512_maskz_loadu_epi16 ESAT_INSTRUCTION(maskz_loadu_epi16)
#define _mm256_maskz_loadu_epi16 ESAT_INSTRUCTION(maskz_loadu_epi16_256)
#define _mm256_mask_storeu_epi16 ESAT_INSTRUCTION(mask_storeu_epi16_256)
#define _mm512_castsi512_ps ESAT_INSTRUCTION(castsi512_ps)
#define _mm512_castps_si512 ESAT_INSTRUCTION(castps_si512)
#define _mm512_setzero_si512 ESAT_INSTRUCTION(setzero_si512)
#define _mm512_set1_epi32 ESAT_INSTRUCTION(set1_epi32)
#define _mm512_add_epi32 ESAT_INSTRUCTION(add_epi32)
#define _mm512_sub_epi32 ESAT_INSTRUCTION(sub_epi32)
#define _mm512_mullo_epi32 ESAT_INSTRUCTION(mullo_epi32)
#define _mm512_max_epi32 ESAT_INSTRUCTION(max_epi32)
#define _mm512_and_si512 ESAT_INSTRUCTION(and_si512)
#define _mm512_or_si512 ESAT_INSTRUCTION(or_si512)
#define _mm512_slli_epi32 ESAT_INSTRUCTION(slli_epi32)
#define _mm512_srli_epi32 ESAT_INSTRUCTION(srli_epi32)
#define _mm512_cvtepi32_ps ESAT_INSTRUCTION(cvtepi32_ps)
#define _mm512_cvtps_epi32 ESAT_INSTRUCTION(cvtps_epi32)
#define _mm512_cvtusepi32_epi8 ESAT_INSTRUCTION(cvtusepi32_epi8)
#define _mm512_cvtepu16_epi32 ESAT_INSTRUCTION(cvtepu16_epi32)
#define _mm512_mask_blend_epi16 ESAT_INSTRUCTION(mask_blend_epi16)
#define _mm512_permutexvar_epi16 ESAT_INSTRUCTION(permutexvar_epi16)
#define _mm512_unpacklo_epi32 ESAT_INSTRUCTION(unpacklo_epi32)
#define _mm512_unpackhi_epi32 ESAT_INSTRUCTION(unpackhi_epi32)
#define _mm512_unpacklo_epi64 ESAT_INSTRUCTION(unpacklo_epi64)
#define _mm512_unpackhi_epi64 ESAT_INSTRUCTION(unpackhi_epi64)
#define _mm512_shuffle_i32x4 ESAT_INSTRUCTION(shuffle_i32x4)
#define _mm512_dpbf16_ps ESAT_INSTRUCTION(dpbf16_ps)
#define _mm512_cvtneps_pbh ESAT_INSTRUCTION(cvtneps_pbh)
#define _mm512_cvtne2ps_pbh ESAT_INSTRUCTION(cvtne2ps_pbh)
#define _mm512_dpbusd_epi32 ESAT_INSTRUCTION(dpbusd_epi32)
#define _mm256_dpbusd_avx_epi32 ESAT_INSTRUCTION(dpbusd_epi32_256)
#define _mm512_set_epi16 esat::emulation::set_halves

#undef __AVXVNNI__
#undef __AVX512F__
#undef __AVX512VNNI__
#undef __AVX512BF16__
#if ESAT_EMULATED_SET == 256
#define __AVXVNNI__ 1
#endif
#if ESAT_EMULATED_SET >= 512
#define __AVX512F__ 1
#endif
#if ESAT_EMULATED_SET >= 513
#define __AVX512VNNI__ 1
#endif
#if ESAT_EMULATED_SET >= 514
#define __AVX512BF16__ 1
#endif
#if ESAT_EMULATED_SET >= 515
#include "emulated_tiles.h"
#endif

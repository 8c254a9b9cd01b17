// The AVX-VNNI product's own source on processors that have its instruction in AVX-512's encoding only.

#define __AVXVNNI__ 1
#include "common/simd_avx2.h"
//
#undef __AVX512F__
#undef __AVX512VNNI__
#undef __AVX512BF16__
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#define int8_kernels_avx2 int8_kernels_tested
#include "linear/int8_avx2vnni.cpp"
//
#include <cstdio>

#include "int8_cases.h"

int main() {
  if (esat::detected_isa() < esat::Isa::avx512bf16) {
    std::printf("skipped: this processor has %s, no avx512bf16\n", esat::isa_name(esat::detected_isa()));
    return 0;
  }
  esat::testing::check_int8(*esat::linear::kernels<float>(esat::Isa::avx2), esat::linear::int8_kernels_tested);
  return esat::testing::failures == 0 ? 0 : 1;
}

// The AVX-VNNI product's own source on processors that have its instruction in AVX-512's encoding only.

#define __AVXVNNI__ 1
#include "common/simd_avx2.h"
//
#undef __AVX512F__
#undef __AVX512VNNI__
#undef __AVX512BF16__
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#define int8_kernels_avx2vnni int8_kernels_tested
#include "linear/linear_int8_cpu_avx2vnni.cpp"
//
#include <cstdio>

#include "int8_cases.h"

int main() {
  if (!esat::sets::avx512bf16.runs_on(esat::detected_features())) {
    std::printf("skipped: this processor has %s, no avx512bf16\n", esat::sets_within(esat::detected_features()).back().name);
    return 0;
  }
  esat::testing::check_int8(*esat::linear::kernels<float>(esat::sets::avx2.needs), esat::linear::int8_kernels_tested);
  return esat::testing::failures == 0 ? 0 : 1;
}

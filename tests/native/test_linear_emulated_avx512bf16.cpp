// The AMX product's own source on emulated tiles. Needs AVX-512 with bf16 for what happens between the tiles.

#include "emulated_tiles.h"
//
#define kernels_amx kernels_emulated
#define int8_kernels_amx int8_kernels_emulated
#include "linear/linear_cpu_amx.cpp"
//
#include <cstdio>

#include "int8_cases.h"

int main() {
  if (!esat::sets::avx512bf16.runs_on(esat::detected_features())) {
    std::printf("skipped: this processor has %s, no avx512bf16\n", esat::sets_within(esat::detected_features()).back().name);
    return 0;
  }
  esat::testing::check_kernels(esat::linear::kernels_emulated);
  esat::testing::check_int8(esat::linear::kernels_emulated, esat::linear::int8_kernels_emulated);
  return esat::testing::failures == 0 ? 0 : 1;
}

// The AMX product's own source on emulated tiles. Needs AVX-512 with bf16 for what happens between the tiles.

#include "emulated_tiles.h"
//
#define kernels_amx kernels_emulated
#define int8_kernels_amx int8_kernels_emulated
#include "linear/linear_amx.cpp"
//
#include <cstdio>

#include "int8_cases.h"

int main() {
  if (esat::detected_isa() < esat::Isa::avx512bf16) {
    std::printf("skipped: this processor has %s, no avx512bf16\n", esat::isa_name(esat::detected_isa()));
    return 0;
  }
  esat::testing::check_kernels(esat::linear::kernels_emulated);
  esat::testing::check_int8(esat::linear::kernels_emulated, esat::linear::int8_kernels_emulated);
  return esat::testing::failures == 0 ? 0 : 1;
}

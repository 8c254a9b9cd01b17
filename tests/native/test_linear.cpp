// Every set of vector kernels that this machine can run (the tiles': test_linear_emulated_avx512bf16.cpp, and here where it has them).

#include <cstdio>

#include "int8_cases.h"

using namespace esat;

template <class T>
void check_up_to(Isa best, Isa level) {
  const linear::Kernels<T>* kernels = linear::kernels<T>(level);
  if (kernels == nullptr || kernels->isa != level || level > best) return;
  std::printf("%s\n", isa_name(level));
  testing::check_kernels(*kernels);
  const linear::Int8Kernels<T>* int8 = linear::int8_kernels<T>(level);
  CHECK((int8 != nullptr) == has_int8_products(level));
  if (int8 == nullptr) return;
  std::printf("%s int8\n", isa_name(level));
  CHECK(int8->isa == level);
  testing::check_int8(*kernels, *int8);
}

int main() {
  const Isa best = detected_isa();
  for (const Isa level : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx}) {
    check_up_to<float>(best, level);
    check_up_to<linear::bf16>(best, level);
  }
  CHECK(linear::kernels<float>(Isa::portable) == nullptr);
  CHECK(linear::kernels<linear::bf16>(Isa::avx512) == nullptr);
  return testing::failures == 0 ? 0 : 1;
}

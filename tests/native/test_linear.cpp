// Every set of vector kernels that this machine can run (the tiles': test_linear_emulated_avx512bf16.cpp, and here where it has them).

#include <cstdio>

#include "int8_cases.h"

using namespace esat;

template <class T>
void check_set(Isa level) {
  const linear::Kernels<T>* kernels = linear::kernels<T>(level);
  if (kernels == nullptr || !supported(level)) return;
  if (kernels->isa == level) {
    std::printf("%s, %d bits\n", isa_name(level), static_cast<int>(8 * sizeof(T)));
    testing::check_kernels(*kernels);
  }
  const linear::Int8Kernels<T>* int8 = linear::int8_kernels<T>(level);
  CHECK((int8 != nullptr) == has_int8_products(level));
  if (int8 == nullptr || int8->isa != level) return;
  std::printf("%s, int8 beside %d bits\n", isa_name(level), static_cast<int>(8 * sizeof(T)));
  testing::check_int8(*kernels, *int8);
}

int main() {
  for (const Isa level :
       {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx, Isa::neon, Isa::neondot, Isa::neonbf16}) {
    check_set<float>(level);
    check_set<linear::bf16>(level);
  }
  CHECK(linear::kernels<float>(Isa::portable) == nullptr);
  CHECK(linear::kernels<linear::bf16>(Isa::portable) == nullptr);
  return testing::failures == 0 ? 0 : 1;
}

// Every set of vector kernels that this machine can run (the tiles': test_linear_emulated_avx512bf16.cpp, and here where it has them).

#include <cstdio>

#include "linear_cases.h"

using namespace esat;

template <class T>
void check_up_to(Isa best, Isa level) {
  const linear::Kernels<T>* kernels = linear::kernels<T>(level);
  if (kernels == nullptr || kernels->isa != level || level > best) return;
  std::printf("%s\n", isa_name(level));
  testing::check_kernels(*kernels);
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

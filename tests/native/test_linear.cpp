// Every set of product kernels, against double.

#include <cstdio>

#include "int8_cases.h"
#include "sets.h"

using namespace esat;

template <class T>
void check(const Set& set, const linear::Kernels<T>*& kernels_before, const linear::Int8Kernels<T>*& int8_before) {
  const linear::Kernels<T>* kernels = linear::kernels<T>(set.needs);
  const linear::Int8Kernels<T>* int8 = linear::int8_kernels<T>(set.needs);
  if (kernels != nullptr && kernels != kernels_before) {
    std::printf("%s\n", set.name);
    testing::check_kernels(*kernels);
  }
  if (int8 != nullptr && int8 != int8_before) {
    std::printf("%s int8\n", set.name);
    CHECK(kernels != nullptr);
    testing::check_int8(*kernels, *int8);
  }
  kernels_before = kernels;
  int8_before = int8;
}

int main() {
  const linear::Kernels<float>* floats = nullptr;
  const linear::Int8Kernels<float>* int8_floats = nullptr;
  const linear::Kernels<linear::bf16>* bfloats = nullptr;
  const linear::Int8Kernels<linear::bf16>* int8_bfloats = nullptr;
  for (const Set& set : testing::sets()) {
    check(set, floats, int8_floats);
    check(set, bfloats, int8_bfloats);
  }
  CHECK(linear::kernels<float>(sets::portable.needs) == nullptr);
  CHECK(linear::kernels<linear::bf16>(sets::avx512.needs) == nullptr);
  return testing::failures == 0 ? 0 : 1;
}

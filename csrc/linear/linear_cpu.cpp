#include "linear/linear.h"

namespace esat::linear {
namespace {

const Table<Kernels<float>> kFloat = {
#if defined(__x86_64__)
    {sets::avx512, &kernels_avx512},
    {sets::avx2, &kernels_avx2},
#elif defined(__aarch64__)
    {sets::neon, &kernels_neon},
#endif
};

const Table<Kernels<bf16>> kBfloat = {
#if defined(__x86_64__)
    {sets::amx, &kernels_amx},
    {sets::avx512bf16, &kernels_avx512bf16},
#elif defined(__aarch64__)
    {sets::neonbf16, &kernels_neonbf16},
#endif
};

const Table<Int8Kernels<float>> kInt8Float = {
#if defined(__x86_64__)
    {sets::avx512vnni, &int8_kernels_avx512vnni},
    {sets::avx2vnni, &int8_kernels_avx2vnni},
    {sets::avx2, &int8_kernels_avx2},
#elif defined(__aarch64__)
    {sets::neoni8mm, &int8_kernels_neoni8mm},
    {sets::neondot, &int8_kernels_neondot},
#endif
};

const Table<Int8Kernels<bf16>> kInt8Bfloat = {
#if defined(__x86_64__)
    {sets::amx, &int8_kernels_amx},
    {sets::avx512bf16, &int8_kernels_avx512bf16},
#elif defined(__aarch64__)
    {sets::neonbf16, &int8_kernels_neonbf16},
#endif
};

}  // namespace

template <>
const Kernels<float>* kernels<float>(Features have) {
  return best(kFloat, have);
}

template <>
const Kernels<bf16>* kernels<bf16>(Features have) {
  return best(kBfloat, have);
}

template <>
const Int8Kernels<float>* int8_kernels<float>(Features have) {
  return best(kInt8Float, have);
}

template <>
const Int8Kernels<bf16>* int8_kernels<bf16>(Features have) {
  return best(kInt8Bfloat, have);
}

std::vector<Choice> choices(Features have) {
  return {choice("products float32", kFloat, have), choice("products bfloat16", kBfloat, have),
          choice("products int8, float32 around", kInt8Float, have), choice("products int8, bfloat16 around", kInt8Bfloat, have)};
}

}  // namespace esat::linear

#include "linear/linear.h"

namespace esat::linear {

template <>
const Kernels<float>* kernels<float>(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return &kernels_avx512;
  if (isa >= Isa::avx2) return &kernels_avx2;
#elif defined(__aarch64__)
  if (isa >= Isa::neon) return &kernels_neon;
#endif
  (void)isa;
  return nullptr;
}

template <>
const Kernels<bf16>* kernels<bf16>(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::amx) return &kernels_amx;
  if (isa >= Isa::avx512bf16) return &kernels_avx512bf16;
#elif defined(__aarch64__)
  if (isa >= Isa::neonbf16) return &kernels_neonbf16;
#endif
  (void)isa;
  return nullptr;
}

template <>
const Int8Kernels<float>* int8_kernels<float>(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512 && has_int8_products(Isa::avx512)) return &int8_kernels_avx512;
  if (isa >= Isa::avx2 && has_int8_products(Isa::avx2)) return &int8_kernels_avx2;
#elif defined(__aarch64__)
  if (isa >= Isa::neonbf16) return &int8_float_kernels_neonbf16;
  if (isa >= Isa::neondot) return &int8_kernels_neondot;
#endif
  (void)isa;
  return nullptr;
}

template <>
const Int8Kernels<bf16>* int8_kernels<bf16>(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::amx) return &int8_kernels_amx;
  if (isa >= Isa::avx512bf16) return &int8_kernels_avx512bf16;
#elif defined(__aarch64__)
  if (isa >= Isa::neonbf16) return &int8_kernels_neonbf16;
#endif
  (void)isa;
  return nullptr;
}

}  // namespace esat::linear

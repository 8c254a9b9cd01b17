// The machine instructions that the attention kernel uses, sm_80 and newer. tests/native/emulated_gpu.h has the same functions for the
// host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#define ESAT_DEVICE __device__ __forceinline__

// In bf16, how many of 8 neighbouring scores get exp(-r) from a polynomial on the FMA units instead of the special-function unit. sm_80 has
// the special-function unit to spare; sm_90's FMA units are twice as wide. An estimate.
#if !defined(ESAT_POLYNOMIAL_EIGHTHS)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define ESAT_POLYNOMIAL_EIGHTHS 4
#else
#define ESAT_POLYNOMIAL_EIGHTHS 0
#endif
#endif

namespace esat::sm80 {

struct Bf16 {};
struct F16 {};

ESAT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
ESAT_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
ESAT_DEVICE int block_column() { return static_cast<int>(blockIdx.x); }
ESAT_DEVICE int block_row() { return static_cast<int>(blockIdx.y); }

ESAT_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
}

ESAT_DEVICE std::uint32_t shared_address(const void* pointer) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer)); }

// 16 bytes from global to shared memory; zeros where not valid (the address must be readable all the same).
ESAT_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
ESAT_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
ESAT_DEVICE void copy_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Barrier of the first `threads` threads that name the same id in [1, 15]; id 0 is the whole block's.
ESAT_DEVICE void barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

ESAT_DEVICE void load_matrix(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
ESAT_DEVICE void load_matrix_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b, a 16 x 16, b 16 x 8.
template <class T>
ESAT_DEVICE void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
template <>
ESAT_DEVICE void multiply<Bf16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
ESAT_DEVICE void multiply<F16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to nearest, `low` in the low half.
template <class T>
ESAT_DEVICE std::uint32_t pack(float low, float high);
template <>
ESAT_DEVICE std::uint32_t pack<Bf16>(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
template <>
ESAT_DEVICE std::uint32_t pack<F16>(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

ESAT_DEVICE float shuffle(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
ESAT_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

ESAT_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ESAT_DEVICE float log2_fast(float x) { return __log2f(x); }
ESAT_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
ESAT_DEVICE float minimum(float a, float b) { return fminf(a, b); }
ESAT_DEVICE float add_round_down(float a, float b) { return __fadd_rd(a, b); }
ESAT_DEVICE std::uint32_t bits(float x) { return __float_as_uint(x); }
ESAT_DEVICE float from_bits(std::uint32_t x) { return __uint_as_float(x); }

}  // namespace esat::sm80

// The machine instructions that the attention kernel uses, sm_80 and newer. tests/native/emulated_gpu.h has the same functions for the
// host.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#define ESAT_DEVICE __device__ __forceinline__

namespace esat::sm80 {

ESAT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
ESAT_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
ESAT_DEVICE int block_column() { return static_cast<int>(blockIdx.x); }
ESAT_DEVICE int block_row() { return static_cast<int>(blockIdx.y); }

ESAT_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];  // what the Hopper kernel's tiles want
  return memory;
}

// An address in shared memory, in bytes.
using Shared = std::uint32_t;
ESAT_DEVICE Shared shared_address(const void* pointer) { return static_cast<Shared>(__cvta_generic_to_shared(pointer)); }

// 16 bytes from global to shared memory; zeros if they are not `there`, and then nothing is read.
ESAT_DEVICE void copy_async(Shared shared, const void* global, bool there) {
  asm volatile(
      "{\n"
      ".reg .pred zeros;\n"
      "setp.eq.b32 zeros, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, zeros;\n"
      "}" ::"r"(shared),
      "l"(global), "r"(static_cast<int>(there))
      : "memory");
}
ESAT_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
ESAT_DEVICE void copy_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Barrier of the first `threads` threads that name the same id in [1, 15]; id 0 is the whole block's.
ESAT_DEVICE void barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

ESAT_DEVICE void load_matrix(std::uint32_t (&r)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
ESAT_DEVICE void load_matrix_transposed(std::uint32_t (&r)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// Four floats at a multiple of 16 bytes.
ESAT_DEVICE void load_floats(float (&x)[4], Shared from) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]) : "r"(from) : "memory");
}

// The value as a register that the compiler knows nothing about: otherwise it computes an address anew at every use.
ESAT_DEVICE const unsigned char* opaque(const unsigned char* pointer) {
  asm("" : "+l"(pointer));
  return pointer;
}
ESAT_DEVICE int opaque(int value) {
  asm("" : "+r"(value));
  return value;
}

// 16 bytes of bf16 from global memory.
ESAT_DEVICE void load_global(std::uint32_t (&pairs)[4], const void* from) {
  const uint4 x = *static_cast<const uint4*>(from);
  pairs[0] = x.x, pairs[1] = x.y, pairs[2] = x.z, pairs[3] = x.w;
}

// d = a b + c in bf16 with float32 sums, a 16 x 16, b 16 x 8.
ESAT_DEVICE void multiply(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, const float (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// Two floats rounded to nearest bf16, `low` in the low half.
ESAT_DEVICE std::uint32_t pack(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
ESAT_DEVICE float bf16_low(std::uint32_t pair) { return __uint_as_float(pair << 16); }
ESAT_DEVICE float bf16_high(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Whether it holds for every lane of the warp.
ESAT_DEVICE bool all(bool condition) { return __all_sync(0xffffffffu, condition) != 0; }
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
ESAT_DEVICE int smaller(int a, int b) { return min(a, b); }

}  // namespace esat::sm80

// The machine instructions that only the Hopper attention kernel uses (sm_90a). tests/native/emulated_hopper.h has the same functions for
// the host.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "attention/sm80_primitives.cuh"

namespace esat::sm90 {

using sm80::Shared;

// Registers of the calling warpgroup's threads. All of its warps must come by.
template <int Count>
ESAT_DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
ESAT_DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

ESAT_DEVICE void warp_sync() { __syncwarp(); }

// Barriers in shared memory. A phase ends when `count` arrivals and all announced bytes are there.
ESAT_DEVICE void init_barrier(Shared barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Before anyone else, the copy engine among them, uses barriers that this thread has made.
ESAT_DEVICE void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
ESAT_DEVICE void arrive(Shared barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
ESAT_DEVICE void arrive_with_bytes(Shared barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Until the phase of this parity, 0 for the first, has ended.
ESAT_DEVICE void wait(Shared barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// By a whole warp: what its threads have read of shared memory is behind them before one of them lets the copy engine write there.
ESAT_DEVICE void finish_reads() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
}

// A box of a tensor [batch, tokens, heads, head_dim]: 64 tokens of one head, zeros beyond the last, into swizzled rows of 128 bytes. Its
// bytes arrive at `barrier`.
using TensorMap = CUtensorMap;
ESAT_DEVICE void load_box(Shared to, const TensorMap& map, Shared barrier, int head, int token, int batch) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
               "l"(&map), "r"(0), "r"(head), "r"(token), "r"(batch), "r"(barrier)
               : "memory");
}

// Products of a warpgroup run on their own: until they are waited for, neither their sums nor their left operand may be touched. The fence
// stands between what was done with these registers before and the next product.
ESAT_DEVICE void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ESAT_DEVICE void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `Left` of the committed groups still run.
template <int Left>
ESAT_DEVICE void product_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}
// Keeps the compiler from moving what touches these registers over a fence or a wait.
template <int Rows>
ESAT_DEVICE void pin(float (&x)[Rows][4]) {
#pragma unroll
  for (int n = 0; n < Rows; ++n) asm volatile("" : "+f"(x[n][0]), "+f"(x[n][1]), "+f"(x[n][2]), "+f"(x[n][3])::"memory");
}
template <int Rows>
ESAT_DEVICE void pin(std::uint32_t (&x)[Rows][4]) {
#pragma unroll
  for (int n = 0; n < Rows; ++n) asm volatile("" : "+r"(x[n][0]), "+r"(x[n][1]), "+r"(x[n][2]), "+r"(x[n][3])::"memory");
}

// d = a b, and + d with `add`, which the whole warpgroup agrees on, in bf16 with float32 sums: a 64 x 16, 16 rows of each warp; b 16 x 64
// in shared memory, Across if its columns are contiguous. What d was without `add` does not matter, not even a NaN.
template <bool Across>
ESAT_DEVICE void multiply(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, %38;\n"
      "}"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
        "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
        "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(Across));
}

// The blocks of a cluster.
ESAT_DEVICE int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// A barrier of all of the cluster's threads, in two parts. It orders nothing but barriers that were published before.
ESAT_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
ESAT_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// 16 bytes to this address in the shared memory of block `rank` of the cluster. They arrive at its `barrier`.
ESAT_DEVICE void store_to_block(Shared address, int rank, const float (&x)[4], Shared barrier) {
  std::uint32_t to, at;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(address), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(barrier), "r"(rank));
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to), "f"(x[0]), "f"(x[1]),
               "f"(x[2]), "f"(x[3]), "r"(at)
               : "memory");
}
// `wait` for what other blocks have stored.
ESAT_DEVICE void wait_for_blocks(Shared barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

}  // namespace esat::sm90

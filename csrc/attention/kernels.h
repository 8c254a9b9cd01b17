// What the dispatcher needs to know of one instruction set's kernels. A work
// item is (batch, head, block of queries); a thread gets a contiguous range.
#pragma once

#include "attention/attention.h"

namespace esat::attention {

struct ForwardKernel {
  std::int64_t rows_per_item;
  std::size_t (*workspace_bytes)(const Problem& problem);
  // Items [begin, end). probabilities: [batch * heads, tokens - num_template]
  // of the elimination row, or null. workspace: 64-byte aligned.
  Counters (*run)(const Forward& call, float* probabilities, std::int64_t begin, std::int64_t end, char* workspace);
};

struct BackwardKernel {
  std::size_t (*workspace_bytes)(const Problem& problem);
  // Heads [begin, end) of batch * heads.
  void (*run)(const Backward& call, std::int64_t begin, std::int64_t end, char* workspace);
};

extern const ForwardKernel forward_portable;
extern const BackwardKernel backward_portable;
#if defined(__x86_64__)
extern const ForwardKernel forward_avx2;
extern const ForwardKernel forward_avx512;
extern const ForwardKernel forward_avx512bf16;  // bf16 only, even head_dim
extern const ForwardKernel forward_amx;         // bf16 only
extern const BackwardKernel backward_avx2;
extern const BackwardKernel backward_avx512;
extern const BackwardKernel backward_amx;  // bf16 only
#elif defined(__aarch64__)
extern const ForwardKernel forward_neon;
extern const BackwardKernel backward_neon;
#endif

}  // namespace esat::attention

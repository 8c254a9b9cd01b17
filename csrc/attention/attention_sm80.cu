// Launcher of the attention kernel for sm_80 and newer (mma.sync, cp.async, ldmatrix).

#include <cuda_runtime.h>

#include <cmath>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "attention/attention_cuda.h"
#include "attention/fda_sm80_layout.h"
#include "attention/sm80_primitives.cuh"
//
#include "attention/fda_sm80_kernel.cuh"

namespace esat::cuda {
namespace {

constexpr int kScoreThreads = 128;

template <class T, int D, bool Attract>
__global__ void __launch_bounds__(sm80::max_threads(D)) fda_forward_kernel(const __grid_constant__ Forward call) {
  sm80::fda_forward_block<T, D, Attract>(call);
}

__global__ void __launch_bounds__(kScoreThreads) fda_scores_kernel(const __grid_constant__ Forward call) { sm80::fda_scores_thread(call); }

void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // forget it, or the next launch would report it again
  throw std::runtime_error("attention: " + what + ": " + cudaGetErrorString(status));
}

template <class T, int D, bool Attract>
void launch(const Forward& call, int rows, cudaStream_t stream) {
  const auto kernel = fda_forward_kernel<T, D, Attract>;
  constexpr int kShared = sm80::shared_bytes(D);
  static_assert(sm80::merge_floats(D) * sm80::threads_per_half(sm80::max_rows(D)) * 4 <= sm80::key_terms(D, 0));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        std::to_string(kShared) + " bytes of shared memory for head dimension " + std::to_string(D));
  const dim3 grid(sm80::ceil_div(call.tokens, rows), call.batch * call.heads);
  kernel<<<grid, sm80::kHalves * sm80::threads_per_half(rows), kShared, stream>>>(call);
  check(cudaGetLastError(), "launch");
}

template <class T>
void launch(const Forward& call, int head_dim, int rows, cudaStream_t stream) {
  if (head_dim == 32) return launch<T, 32, true>(call, rows, stream);
  if (head_dim == 96) return launch<T, 96, true>(call, rows, stream);
  if (head_dim == 128) return launch<T, 128, true>(call, rows, stream);
  return call.alpha > 0.0f ? launch<T, 64, true>(call, rows, stream) : launch<T, 64, false>(call, rows, stream);
}

int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return count;
}

bool aligned(const void* pointer, const Strides& strides) {
  return pointer != nullptr && reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && strides.batch % 8 == 0 && strides.head % 8 == 0 &&
         strides.token % 8 == 0;
}

}  // namespace

const char* refusal(const Forward& call, int head_dim) {
  if (head_dim != 32 && head_dim != 64 && head_dim != 96 && head_dim != 128) return "the head dimension must be 32, 64, 96 or 128";
  if (call.batch < 1 || call.heads < 1 || call.tokens < 1) return "batch, heads and tokens must be positive";
  if (call.batch > 65535 / call.heads) return "batch times heads must be at most 65535";
  if (call.tokens > 1 << 20) return "there may be at most 2^20 tokens";
  if (!aligned(call.query, call.query_strides) || !aligned(call.key, call.key_strides) || !aligned(call.value, call.value_strides) ||
      !aligned(call.out, call.out_strides)) {
    return "addresses and strides must be multiples of 16 bytes";
  }
  if (call.lse == nullptr) return "lse must not be null";
  if ((call.row_logits == nullptr) != (call.scores == nullptr)) return "row_logits and scores go together";
  if (call.row_logits != nullptr &&
      !(0 <= call.template_token && call.template_token < call.num_template && call.num_template < call.tokens)) {
    return "the template token must be one of the template's, and there must be search tokens";
  }
  for (const float value : {call.alpha, call.beta, call.delta}) {
    if (!(std::isfinite(value) && value >= 0.0f)) return "alpha, beta and delta must be zero or positive";
  }
  return std::isfinite(call.scale) && call.scale > 0.0f ? nullptr : "scale must be positive";
}

void forward(const Forward& call, Dtype dtype, int head_dim, int rows, void* stream) {
  if (const char* reason = refusal(call, head_dim)) throw std::invalid_argument(std::string("attention: ") + reason);
  if (rows == 0) rows = sm80::tile_rows(call.tokens, call.batch * call.heads, multiprocessors(), head_dim);
  if (rows < sm80::kMinRows || rows > sm80::max_rows(head_dim) || rows % 16 != 0) {
    throw std::invalid_argument("attention: rows must be 32, 48, 64 or, up to head dimension 64, 80");
  }
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (dtype == Dtype::bf16) {
    launch<sm80::Bf16>(call, head_dim, rows, cuda_stream);
  } else {
    launch<sm80::F16>(call, head_dim, rows, cuda_stream);
  }
  if (call.scores == nullptr) return;
  const dim3 grid(sm80::ceil_div(call.tokens - call.num_template, kScoreThreads), call.batch);
  fda_scores_kernel<<<grid, kScoreThreads, 0, cuda_stream>>>(call);
  check(cudaGetLastError(), "launch of the scores");
}

}  // namespace esat::cuda

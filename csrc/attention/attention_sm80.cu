// Launcher of the attention kernel for sm_80 and newer (mma.sync, cp.async, ldmatrix).

#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "attention/attention_cuda.h"
#include "attention/attention_steps.h"
#include "attention/fda_sm80_layout.h"
#include "attention/sm80_primitives.cuh"
//
#include "attention/fda_sm80_kernel.cuh"

namespace esat::cuda {
namespace {

constexpr int kMaxHeads = 1024;

template <int D, bool Attract, int Warps>
__global__ void __launch_bounds__(sm80::kHalves* sm80::threads_per_half(Warps), sm80::blocks_by_registers(Warps))
    fda_forward_kernel(const __grid_constant__ Forward call) {
  sm80::fda_forward_block<D, Attract, Warps>(call);
}

template <int D, bool Attract, int Warps>
void launch(const Forward& call, cudaStream_t stream) {
  const auto kernel = fda_forward_kernel<D, Attract, Warps>;
  const int shared = sm80::shared_bytes(D, call.tokens);
  static_assert(sm80::merge_floats(D) * sm80::threads_per_half(Warps) * 4 <= sm80::key_terms(D, 0));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        std::to_string(shared) + " bytes of shared memory for head dimension " + std::to_string(D));
  const dim3 grid(sm80::ceil_div(call.tokens, Warps * sm80::kRowsPerWarp), call.batch * call.heads);
  kernel<<<grid, sm80::kHalves * sm80::threads_per_half(Warps), shared, stream>>>(call);
  check(cudaGetLastError(), "launch");
}

template <int D, bool Attract>
void launch(const Forward& call, int warps, cudaStream_t stream) {
  if (warps == 2) return launch<D, Attract, 2>(call, stream);
  if (warps == 3) return launch<D, Attract, 3>(call, stream);
  if (warps == 4) return launch<D, Attract, 4>(call, stream);
  launch<D, Attract, 5>(call, stream);
}

bool aligned(const void* pointer, const Strides& strides) {
  return pointer != nullptr && reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && strides.batch % 8 == 0 && strides.head % 8 == 0 &&
         strides.token % 8 == 0;
}

// A step from token to token is multiplied in 32 bits.
bool short_step(const Strides& strides) { return std::abs(strides.token) < 1 << 30; }

}  // namespace

const char* refusal(const Forward& call, int head_dim) {
  if (head_dim != 32 && head_dim != 64) return "the head dimension must be 32 or 64";
  if (call.batch < 1 || call.heads < 1 || call.tokens < 1) return "batch, heads and tokens must be positive";
  if (call.batch > 65535 / call.heads) return "batch times heads must be at most 65535";
  if (call.tokens > sm80::kMaxTokens) return "there may be at most 2048 tokens";
  if (!aligned(call.query, call.query_strides) || !aligned(call.key, call.key_strides) || !aligned(call.value, call.value_strides) ||
      !aligned(call.out, call.out_strides)) {
    return "addresses and strides must be multiples of 16 bytes";
  }
  if (!short_step(call.key_strides) || !short_step(call.value_strides)) return "a token's stride must be less than 2^30 elements";
  if (call.key_norms == nullptr && (call.make_norms != 0 || call.alpha > 0.0f || call.beta > 0.0f)) {
    return "key_norms may be null only if alpha and beta are 0";
  }
  if ((call.row_logits == nullptr) != (call.scores == nullptr)) return "row_logits and scores go together";
  if (call.row_logits != nullptr && call.heads > kMaxHeads) return "scores are made for at most 1024 heads";
  if (call.row_logits != nullptr &&
      !(0 <= call.template_token && call.template_token < call.num_template && call.num_template < call.tokens)) {
    return "the template token must be one of the template's, and there must be search tokens";
  }
  for (const float value : {call.alpha, call.beta, call.delta}) {
    if (!(std::isfinite(value) && value >= 0.0f)) return "alpha, beta and delta must be zero or positive";
  }
  return std::isfinite(call.scale) && call.scale > 0.0f ? nullptr : "scale must be positive";
}

void forward(const Forward& call, int head_dim, int rows, void* stream) {
  if (const char* reason = refusal(call, head_dim)) throw std::invalid_argument(std::string("attention: ") + reason);
  if (rows == 0)
    rows = sm80::kRowsPerWarp *
           sm80::tile_warps(call.tokens, call.batch * call.heads, attribute(cudaDevAttrMultiProcessorCount, "multiprocessors"), head_dim);
  const int warps = rows / sm80::kRowsPerWarp;
  if (rows % sm80::kRowsPerWarp != 0 || warps < sm80::kMinWarps || warps > sm80::kMaxWarps) {
    throw std::invalid_argument("attention: rows must be 32, 48, 64 or 80");
  }
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (call.make_norms != 0) make_norms(call, head_dim, cuda_stream);
  if (head_dim == 32) {
    launch<32, true>(call, warps, cuda_stream);
  } else if (call.alpha > 0.0f) {
    launch<64, true>(call, warps, cuda_stream);
  } else {
    launch<64, false>(call, warps, cuda_stream);
  }
  if (call.scores != nullptr) make_scores(call, cuda_stream);
}

}  // namespace esat::cuda

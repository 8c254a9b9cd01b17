// The kernels before and behind the forward kernels: norms of the keys, scores of the elimination.

#include "attention/attention_steps.h"

#include <stdexcept>

#include "attention/sm80_primitives.cuh"
//
#include "attention/fda_steps.cuh"

namespace esat::cuda {
namespace {

constexpr int kScoreThreads = 1024, kNormThreads = 128;

template <int D>
__global__ void __launch_bounds__(kNormThreads) fda_key_norms_kernel(const __grid_constant__ Forward call) {
  sm80::fda_key_norms_thread<D>(call);
}

__global__ void __launch_bounds__(kScoreThreads) fda_scores_kernel(const __grid_constant__ Forward call) { sm80::fda_scores_block(call); }

template <int D>
void launch_norms(const Forward& call, cudaStream_t stream) {
  const dim3 grid(sm80::ceil_div(call.tokens, kNormThreads / (D / 8)), call.batch * call.heads);
  fda_key_norms_kernel<D><<<grid, kNormThreads, 0, stream>>>(call);
}

}  // namespace

void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // forget it, or the next launch would report it again
  throw std::runtime_error("attention: " + what + ": " + cudaGetErrorString(status));
}

int attribute(cudaDeviceAttr which, const std::string& what) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&value, which, device), what);
  return value;
}

void make_norms(const Forward& call, int head_dim, cudaStream_t stream) {
  head_dim == 32 ? launch_norms<32>(call, stream) : launch_norms<64>(call, stream);
  check(cudaGetLastError(), "launch of the norms");
}

void make_scores(const Forward& call, cudaStream_t stream) {
  fda_scores_kernel<<<dim3(1, call.batch), kScoreThreads, call.heads * sizeof(float), stream>>>(call);
  check(cudaGetLastError(), "launch of the scores");
}

}  // namespace esat::cuda

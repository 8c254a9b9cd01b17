// Launcher of the attention kernel for Hopper (sm_90a: wgmma, tensor maps, clusters).

#include <cuda.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "attention/attention_cuda.h"
#include "attention/attention_steps.h"
#include "attention/sm90_primitives.cuh"
//
#include "attention/fda_sm90_kernel.cuh"

namespace esat::cuda {
namespace {

template <bool Attract, int Groups>
__global__ void __launch_bounds__(sm90::block_threads(Groups), 1)
    fda_forward_sm90_kernel(const __grid_constant__ Forward call, const __grid_constant__ CUtensorMap keys,
                            const __grid_constant__ CUtensorMap values) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)  // others never run it
  sm90::fda_forward_block<Attract, Groups>(call, keys, values);
#endif
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                                 const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill);

// The driver's function, asked for so that the library need not be linked with the driver's.
EncodeTiled find_encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found), "cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess) throw std::runtime_error("attention: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<EncodeTiled>(function);
}

// Boxes of 64 tokens of one head of a tensor [batch, tokens, heads, 64].
CUtensorMap tensor_map(const void* address, const Strides& strides, const Forward& call, const std::string& what) {
  const cuuint64_t sizes[] = {sm90::kHeadDim, cuuint64_t(call.heads), cuuint64_t(call.tokens), cuuint64_t(call.batch)};
  // The stride of a dimension of one is never used, but looked at.
  const cuuint64_t steps[] = {call.heads == 1 ? sm90::kRowBytes : cuuint64_t(2 * strides.head),
                              call.tokens == 1 ? sm90::kRowBytes : cuuint64_t(2 * strides.token),
                              call.batch == 1 ? sm90::kRowBytes : cuuint64_t(2 * strides.batch)};
  const cuuint32_t box[] = {sm90::kHeadDim, 1, sm90::kKeysPerTile, 1}, ones[] = {1, 1, 1, 1};
  static const EncodeTiled encode_tiled = find_encode_tiled();
  CUtensorMap map;
  const CUresult status = encode_tiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(address), sizes, steps, box, ones,
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) throw std::runtime_error("attention: tensor map of the " + what + ": error " + std::to_string(status));
  return map;
}

template <bool Attract, int Groups>
void launch(const Forward& call, cudaStream_t stream) {
  const auto kernel = fda_forward_sm90_kernel<Attract, Groups>;
  const int shared = sm90::shared_bytes(Groups, call.tokens);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        std::to_string(shared) + " bytes of shared memory");
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = sm90::kBlocks;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(sm90::kBlocks * sm90::ceil_div(call.tokens, Groups * sm90::kGroupRows), call.batch * call.heads);
  config.blockDim = dim3(sm90::block_threads(Groups));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  const CUtensorMap keys = tensor_map(call.key, call.key_strides, call, "keys");
  const CUtensorMap values = tensor_map(call.value, call.value_strides, call, "values");
  check(cudaLaunchKernelEx(&config, kernel, call, keys, values), "launch");
}

template <bool Attract>
void launch(const Forward& call, int groups, cudaStream_t stream) {
  groups == 2 ? launch<Attract, 2>(call, stream) : launch<Attract, 3>(call, stream);
}

// What a tensor map takes: positive steps below 2^40 bytes.
bool mappable(const Strides& strides, const Forward& call) {
  const auto good = [](std::int64_t step, int size) { return size == 1 || (step > 0 && step < std::int64_t{1} << 39); };
  return good(strides.batch, call.batch) && good(strides.head, call.heads) && good(strides.token, call.tokens);
}

}  // namespace

const char* refusal_sm90(const Forward& call, int head_dim) {
  if (head_dim != sm90::kHeadDim) return "the head dimension must be 64 on sm_90a";
  if (const char* reason = refusal(call, head_dim)) return reason;
  if (!mappable(call.key_strides, call) || !mappable(call.value_strides, call)) {
    return "strides of keys and values must be positive and less than 2^39 elements on sm_90a";
  }
  return nullptr;
}

void forward_sm90(const Forward& call, int head_dim, int rows, void* stream) {
  if (const char* reason = refusal_sm90(call, head_dim)) throw std::invalid_argument(std::string("attention: ") + reason);
  if (rows != 0 && rows != 2 * sm90::kGroupRows && rows != 3 * sm90::kGroupRows) {
    throw std::invalid_argument("attention: rows must be 128 or 192 on sm_90a");
  }
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, "compute capability");
  if (major != 9) throw std::invalid_argument("attention: sm_90a is compute capability 9.0, the device has " + std::to_string(major));
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, "multiprocessors");
  const int groups = rows == 0 ? sm90::block_groups(call.tokens, call.batch * call.heads, multiprocessors) : rows / sm90::kGroupRows;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (call.make_norms != 0) make_norms(call, head_dim, cuda_stream);
  call.alpha > 0.0f ? launch<true>(call, groups, cuda_stream) : launch<false>(call, groups, cuda_stream);
  if (call.scores != nullptr) make_scores(call, cuda_stream);
}

}  // namespace esat::cuda

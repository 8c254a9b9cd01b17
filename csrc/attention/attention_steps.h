// What stands before and behind the forward kernels of every architecture, and what their launchers share.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "attention/attention_cuda.h"

namespace esat::cuda {

// std::runtime_error with what failed and CUDA's words, unless `status` is a success.
void check(cudaError_t status, const std::string& what);

// Of the current device.
int attribute(cudaDeviceAttr which, const std::string& what);

// Writes call.key_norms.
void make_norms(const Forward& call, int head_dim, cudaStream_t stream);

// Writes call.scores, from call.row_logits.
void make_scores(const Forward& call, cudaStream_t stream);

}  // namespace esat::cuda

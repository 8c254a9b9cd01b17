// Force-directed attention on a CUDA device: softmax(scale S + alpha exp(-r) - beta r) v with S = q k^T and r = delta |q - k|^2.
#pragma once

#include <cstdint>

namespace esat::cuda {

// Elements between neighbours along batch, head and token; the head dimension is contiguous.
struct Strides {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t token;
};

struct Forward {
  const void* query;  // bf16 [batch, heads, tokens, head_dim], device memory, 16-byte aligned like the strides
  const void* key;
  const void* value;
  void* out;
  Strides query_strides;
  Strides key_strides;
  Strides value_strides;
  Strides out_strides;
  float* key_norms;  // [batch, heads, tokens]: |k|^2 of each key as it was rounded; null if alpha and beta are 0
  Strides norm_strides;
  float* row_logits;  // [batch, heads, tokens] or null: the logits of query template_token, base 2
  float* scores;      // with row_logits: [batch, tokens - num_template], mean over heads of that row's probabilities
  int batch;
  int heads;
  int tokens;
  int num_template;
  int template_token;
  int make_norms;  // not 0: a kernel of their own writes key_norms first
  float alpha;
  float beta;
  float delta;
  float scale;
};

// What stops the kernel from running on this call, or null: shapes, alignment, grid limits. Everything that guards memory is checked here.
const char* refusal(const Forward& call, int head_dim);

// Launches on the current device and the given cudaStream_t, without waiting. rows: queries per block (32, 48, 64, 80), 0 to choose.
// std::invalid_argument for what `refusal` or a wrong `rows` says; std::runtime_error if CUDA reports an error.
void forward(const Forward& call, int head_dim, int rows, void* stream);

// The same for the kernel that only Hopper runs (sm_90a). rows: 128 or 192, 0 to choose; the head dimension is 64, and keys and values have
// positive strides.
const char* refusal_sm90(const Forward& call, int head_dim);
void forward_sm90(const Forward& call, int head_dim, int rows, void* stream);

}  // namespace esat::cuda

// Force-directed attention on the CPU: softmax(scale S + alpha exp(-r) - beta
// r) v with S = q k^T and r = delta |q - k|^2, one pass, no N x N matrix.
//
// r = delta (|q|^2 + |k|^2 - 2 S), so in units of log2 every score is a scaled
// S, a bias per key and a constant per query, and the attraction one more
// exponential:   y_ij = c S_ij - b |k_j|^2 - m_i,   z_ij = 2 d S_ij - d |k_j|^2
// - d |q_i|^2,   p_ij = 2^(y_ij + a 2^z_ij) with b = beta delta log2(e), c =
// scale log2(e) + 2 b, d = delta log2(e), a = alpha log2(e). Softmax does not
// see constants of a row, so m_i is free: instead of a running maximum it is a
// bound from |q_i| and max_j |k_j|. Rows whose sum shows that the bound was too
// loose are done again with their exact maximum.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/kernel_table.h"

namespace esat::attention {

enum class Dtype { f32, bf16, f16 };

// Elements between neighbours along batch, head and token; the head dimension
// is contiguous.
struct Strides {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t token;
};

struct Problem {
  Dtype dtype;
  std::int64_t batch;
  std::int64_t heads;
  std::int64_t tokens;
  std::int64_t head_dim;
  float alpha;
  float beta;
  float delta;
  float scale;
};

struct Forward {
  Problem problem;
  const void* query;
  const void* key;
  const void* value;
  Strides query_strides;
  Strides key_strides;
  Strides value_strides;
  void* out;
  Strides out_strides;
  float* lse;                   // [batch, heads, tokens], natural logarithm; may be null
  float* scores;                // [batch, tokens - num_template] or null: mean over heads of
                                // one row's probabilities
  std::int64_t num_template;    // with scores: the first key that counts
  std::int64_t template_token;  // with scores: the row
};

struct Backward {
  Problem problem;
  const void* dout;
  const void* query;
  const void* key;
  const void* value;
  const void* out;
  Strides dout_strides;
  Strides query_strides;
  Strides key_strides;
  Strides value_strides;
  Strides out_strides;
  const float* lse;  // [batch, heads, tokens]
  void* dquery;
  void* dkey;
  void* dvalue;
  Strides grad_strides;  // of all three
};

// What a forward call did, for reports: blocks of 16 queries x 16 keys (8 keys
// on vectors) whose attraction was below what the output can show and was left
// out, blocks in all (both 0 where the kernel never skips), and rows done again
// with their exact maximum.
struct Counters {
  std::int64_t skipped_blocks;
  std::int64_t blocks;
  std::int64_t redone_rows;
};

// Shapes, strides and the range of the constants are the caller's to check.
// Results do not depend on the number of threads. std::bad_alloc if there is no
// memory for the workspace.
Counters forward(const Forward& call, Features have);
void backward(const Backward& call, Features have);

// Of a model's usual problem: heads of 64, alpha and beta 0.1.
std::vector<Choice> choices(Features have);

}  // namespace esat::attention

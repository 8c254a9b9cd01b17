// The transformer layers around attention, on AMX: rows are shared out among the threads in tiles of 16, and a thread takes its rows from
// the output projection through the MLP to the next layer's q, k, v without waiting for the others.
#pragma once

#include <cstdint>
#include <vector>

#include "linear/linear.h"

namespace esat::frame {

using linear::bf16;

// Of one layer. Weights are packed as linear.h says; each LayerNorm's gain and bias are folded into the product behind it.
struct LayerWeights {
  const bf16* qkv;
  const bf16* projection;
  const bf16* mlp_in;
  const bf16* mlp_out;
  const float* qkv_bias;
  const float* projection_bias;
  const float* mlp_in_bias;
  const float* mlp_out_bias;
};

// Working memory for `tokens` tokens, rounded up to whole tiles.
struct Workspace {
  bf16* tiles;   // [tokens, dim]
  bf16* hidden;  // [tokens, hidden_part]
};

class Encoder {
 public:
  Encoder(int dim, int hidden, int patch_values, std::vector<LayerWeights> layers);

  // Columns of the hidden layer that are computed and consumed at a time, so that they stay in the L2 cache.
  static int hidden_part(int hidden);

  // tokens [count, dim] = position + patches [count, width] times the packed `weight` [dim, width]; `position` holds the bias as well.
  void embed(const bf16* patches, int count, int width, const bf16* weight, const float* position, float* tokens) const;

  // qkv [count, 3 dim] from tokens [count, dim]: LayerNorm and the product.
  void qkv(int layer, const float* tokens, int count, bf16* qkv, const Workspace& work) const;

  // tokens += projection(attended), tokens += MLP(LayerNorm(tokens)), and then the next layer's qkv unless it is null.
  // Only rows from `first` on, a multiple of 16.
  void finish_layer(int layer, const bf16* attended, float* tokens, int first, int count, bf16* next_qkv, const Workspace& work) const;

  int dim() const { return dim_; }

 private:
  void qkv_rows(int layer, const float* tokens, int first_tile, int tiles, bf16* qkv, const Workspace& work) const;

  int dim_;
  int hidden_;
  std::vector<LayerWeights> layers_;
  std::vector<std::int32_t> in_tiles_;  // step offsets of the tile layout
  std::vector<std::int32_t> in_rows_;   // step offsets of plain rows
};

// to[i] = from[place(i)] for rows of `row_bytes` bytes: the first `first` rows, then row first + kept[i] for each of the `count` kept.
void gather_rows(const void* from, void* to, int row_bytes, int first, const std::int64_t* kept, int count);

}  // namespace esat::frame

// The transformer layers around attention: rows are shared out among the threads, and a thread takes its rows from the output projection
// through the MLP to the next layer's q, k, v without waiting for the others. T is bf16 or float: weights and activations; residuals and
// sums are float32.
#pragma once

#include <cstdint>
#include <vector>

#include "linear/linear.h"

namespace esat::frame {

// Of one layer. Weights are packed as linear.h says; each LayerNorm's gain and bias are folded into the product behind it.
template <class T>
struct LayerWeights {
  const T* qkv;
  const T* projection;
  const T* mlp_in;
  const T* mlp_out;
  const float* qkv_bias;
  const float* projection_bias;
  const float* mlp_in_bias;
  const float* mlp_out_bias;
};

// Working memory for `tokens` tokens, rounded up to whole tiles.
template <class T>
struct Workspace {
  T* normalised;  // [tokens, dim]
  T* hidden;      // [tokens, hidden_part]
};

template <class T>
class Encoder {
 public:
  Encoder(const linear::Kernels<T>& kernels, int dim, int hidden, int patch_values, std::vector<LayerWeights<T>> layers);

  // Columns of the hidden layer that are computed and consumed at a time, so that they stay in the L2 cache.
  static int hidden_part(int hidden);

  // tokens [count, dim] = position + patches [count, width] times the packed `weight` [dim, width]; `position` holds the bias as well.
  void embed(const T* patches, int count, int width, const T* weight, const float* position, float* tokens) const;

  // qkv [count, 3 dim] from tokens [count, dim]: LayerNorm and the product.
  void qkv(int layer, const float* tokens, int count, T* qkv, const Workspace<T>& work) const;

  // tokens += projection(attended), tokens += MLP(LayerNorm(tokens)), and then the next layer's qkv unless it is null.
  // Only rows from `first` on, a multiple of 32.
  void finish_layer(int layer, const T* attended, float* tokens, int first, int count, T* next_qkv, const Workspace<T>& work) const;

  int dim() const { return dim_; }

 private:
  template <class Work>
  void share_rows(int first, int count, const Work& work) const;
  void qkv_rows(int layer, const float* tokens, int first, int rows, T* qkv, const Workspace<T>& work) const;

  const linear::Kernels<T>* kernels_;
  int dim_;
  int hidden_;
  std::vector<LayerWeights<T>> layers_;
  std::vector<std::int32_t> in_layout_;  // step offsets of the kernels' layout
  std::vector<std::int32_t> in_rows_;    // step offsets of plain rows
};

// to[i] = from[place(i)] for rows of `row_bytes` bytes: the first `first` rows, then row first + kept[i] for each of the `count` kept.
void gather_rows(const void* from, void* to, int row_bytes, int first, const std::int64_t* kept, int count);

}  // namespace esat::frame

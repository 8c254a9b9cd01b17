// The transformer layers around attention: rows are shared out among the threads, and a thread takes its rows from the output projection
// through the MLP to the next layer's q, k, v without waiting for the others. T is bf16 or float: weights and activations; residuals and
// sums are float32. W is the type of the weights of q, k, v and of the MLP, which are eleven twelfths of a layer: T, or int8.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "linear/linear.h"

namespace esat::layers {

// A product's weights, packed as linear.h says. The last two are for int8 only.
template <class W>
struct Dense {
  const W* weight;
  const float* bias;
  const float* column_scale;
  const std::int32_t* column_sum;  // of the MLP's second product: for each hidden part, [parts][dim]
};

// Of one layer. Each LayerNorm's gain and bias are folded into the product behind it.
template <class T, class W>
struct LayerWeights {
  Dense<W> qkv;
  Dense<T> projection;
  Dense<W> mlp_in;
  Dense<W> mlp_out;
};

// Working memory for `tokens` tokens, rounded up to whole tiles. The last three are for int8 only.
template <class T, class W>
struct Workspace {
  linear::Activation<W>* normalised;   // [tokens, dim]
  T* hidden;                           // [tokens, hidden_part]
  std::uint8_t* quantised;             // [tokens, hidden_part]
  linear::RowScale* normalised_scale;  // [tokens]
  linear::RowScale* quantised_scale;   // [tokens]
};

// Columns of the hidden layer that are computed and consumed at a time, so that they stay in the L2 cache.
int hidden_part(int hidden);

template <class T, class W = T>
class Encoder {
 public:
  using Products = std::conditional_t<std::is_same_v<W, linear::int8>, linear::Int8Kernels<T>, linear::Kernels<T>>;

  // `patch`: the packed weight [dim, patch_values] of the patch embedding. One call at a time: calls share `work`.
  Encoder(const linear::Kernels<T>& kernels, const Products& products, int dim, int hidden, int patch_values, const T* patch,
          std::vector<LayerWeights<T, W>> layers, const Workspace<T, W>& work);

  // tokens [count, dim] = position + patches [count, patch_values] times the patch embedding; `position` holds its bias as well.
  void embed(const T* patches, int count, const float* position, float* tokens) const;

  // qkv [count, 3 dim] from tokens [count, dim]: LayerNorm and the product.
  void qkv(int layer, const float* tokens, int count, T* qkv) const;

  // tokens += projection(attended), tokens += MLP(LayerNorm(tokens)), and then the next layer's qkv unless it is null.
  // Only rows from `first` on, a multiple of 16.
  void finish_layer(int layer, const T* attended, float* tokens, int first, int count, T* next_qkv) const;

 private:
  static constexpr bool kInt8 = std::is_same_v<W, linear::int8>;

  template <class Work>
  void share_rows(int first, int count, const Work& work) const;
  // LayerNorm of the rows from `first` on, ready to be multiplied.
  linear::Product<W> normalised(const float* tokens, int first, int rows) const;
  // The hidden part of these rows, ready to be multiplied.
  linear::Product<W> hidden_rows(int part, int first, int rows) const;
  void qkv_rows(int layer, const float* tokens, int first, int rows, T* qkv) const;

  const linear::Kernels<T>* kernels_;
  const Products* products_;
  int dim_;
  int hidden_;
  int patch_values_;
  const T* patch_;
  std::vector<LayerWeights<T, W>> layers_;
  Workspace<T, W> work_;
  std::vector<std::int32_t> in_layout_;  // step offsets of the products' layout
  std::vector<std::int32_t> in_rows_;    // step offsets of plain rows of T
};

}  // namespace esat::layers

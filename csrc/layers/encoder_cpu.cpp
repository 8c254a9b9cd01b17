#include "layers/encoder.h"

#include <algorithm>

#include "common/threads.h"

namespace esat::layers {

using linear::Activation;
using linear::AddRows;
using linear::kPanel;
using linear::kPanelStep;
using linear::kTileDepth;
using linear::kTileRows;
using linear::Layout;
using linear::Product;
using linear::StoreGelu;
using linear::StoreRows;

namespace {

constexpr int kHiddenPart = 768;

// `rows` rows of `width` columns from row `first` on.
template <class W>
Product<W> from(const Activation<W>* base, const Layout& layout, const std::vector<std::int32_t>& offsets, int width, int first, int rows) {
  Product<W> product{};
  product.activation = base + layout.at(first);
  product.tile_stride = layout.tile;
  product.row_stride = layout.row;
  product.step_offset = offsets.data();
  product.first_tile = first / kTileRows;
  product.rows = rows;
  product.steps = width / kTileDepth<W>;
  return product;
}

// `outputs` columns of the product from column `first` on; `next` are the weights that are needed then.
template <class W>
void set_weight(Product<W>& product, const Dense<W>& dense, int first, int outputs, const void* next) {
  product.panel_stride = static_cast<std::ptrdiff_t>(product.steps) * kPanelStep<W>;
  product.weight = dense.weight + first / kPanel * product.panel_stride;
  product.panels = outputs / kPanel;
  product.next_weight = next;
  if constexpr (std::is_same_v<W, linear::int8>) {
    product.column_scale = dense.column_scale + first;
    product.column_sum = dense.column_sum + first;
  }
}

}  // namespace

int hidden_part(int hidden) { return hidden % kHiddenPart == 0 ? kHiddenPart : hidden; }

template <class T, class W>
Encoder<T, W>::Encoder(const linear::Kernels<T>& kernels, const Products& products, int dim, int hidden, int patch_values, const T* patch,
                       std::vector<LayerWeights<T, W>> layers, const Workspace<T, W>& work)
    : kernels_(&kernels),
      products_(&products),
      dim_(dim),
      hidden_(hidden),
      patch_values_(patch_values),
      patch_(patch),
      layers_(std::move(layers)),
      work_(work) {
  const int widest = std::max({dim, hidden_part(hidden), patch_values});
  const std::ptrdiff_t step = products.layout(widest).step;
  for (int i = 0; i < widest / kTileDepth<W>; ++i) in_layout_.push_back(static_cast<std::int32_t>(i * step));
  for (int i = 0; i < widest / kTileDepth<T>; ++i) in_rows_.push_back(i * kTileDepth<T>);
}

// Calls work(first row, number of rows) on every thread for its part of [first, count).
template <class T, class W>
template <class Work>
void Encoder<T, W>::share_rows(int first, int count, const Work& work) const {
  const int unit = kernels_->whole_rows;
#pragma omp parallel
  {
    kernels_->begin();
    const Share mine = share(first, (count + unit - 1) / unit * unit, 2 * unit);
    work(mine.first, mine.count);
    kernels_->end();
  }
}

template <class T, class W>
void Encoder<T, W>::embed(const T* patches, int count, const float* position, float* tokens) const {
  share_rows(0, count, [&](int first, int rows) {
    Product<T> product = from<T>(patches, linear::rows_layout<T>(patch_values_), in_rows_, patch_values_, first, rows);
    set_weight(product, Dense<T>{patch_, nullptr, nullptr, nullptr}, 0, dim_, layers_[0].qkv.weight);
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(first) * dim_;
    kernels_->add(product, AddRows{tokens + at, position + at, dim_, nullptr});
  });
}

template <class T, class W>
Product<W> Encoder<T, W>::normalised(const float* tokens, int first, int rows) const {
  const Layout layout = products_->layout(dim_);
  const float* x = tokens + static_cast<std::ptrdiff_t>(first) * dim_;
  Product<W> product = from<W>(work_.normalised, layout, in_layout_, dim_, first, rows);
  Activation<W>* out = work_.normalised + layout.at(first);
  if constexpr (kInt8) {
    products_->normalise(x, rows, dim_, {out, layout, work_.normalised_scale + first});
    product.row_scale = work_.normalised_scale + first;
  } else {
    products_->normalise(x, rows, dim_, out, layout);
  }
  return product;
}

template <class T, class W>
Product<W> Encoder<T, W>::hidden_rows(int part, int first, int rows) const {
  const Layout layout = products_->layout(part);
  if constexpr (kInt8) {
    linear::RowScale* scale = work_.quantised_scale + first;
    products_->quantise(work_.hidden + linear::rows_layout<T>(part).at(first), rows, part,
                        {work_.quantised + layout.at(first), layout, scale});
    Product<W> product = from<W>(work_.quantised, layout, in_layout_, part, first, rows);
    product.row_scale = scale;
    return product;
  } else {
    return from<W>(work_.hidden, layout, in_layout_, part, first, rows);
  }
}

template <class T, class W>
void Encoder<T, W>::qkv_rows(int layer, const float* tokens, int first, int rows, T* qkv) const {
  const Dense<W>& dense = layers_[layer].qkv;
  Product<W> product = normalised(tokens, first, rows);
  set_weight(product, dense, 0, 3 * dim_, layers_[layer].projection.weight);
  products_->store(product, StoreRows<T>{qkv + static_cast<std::ptrdiff_t>(first) * 3 * dim_, 3 * dim_, dense.bias});
}

template <class T, class W>
void Encoder<T, W>::qkv(int layer, const float* tokens, int count, T* qkv) const {
  share_rows(0, count, [&](int first, int rows) { qkv_rows(layer, tokens, first, rows, qkv); });
}

template <class T, class W>
void Encoder<T, W>::finish_layer(int layer, const T* attended, float* tokens, int first, int count, T* next_qkv) const {
  const LayerWeights<T, W>& w = layers_[layer];
  const int part = hidden_part(hidden_);
  const Layout hidden_layout = kInt8 ? linear::rows_layout<T>(part) : products_->layout(part);
  share_rows(first, count, [&](int start, int rows) {
    float* out = tokens + static_cast<std::ptrdiff_t>(start) * dim_;
    Product<T> projection = from<T>(attended, linear::rows_layout<T>(dim_), in_rows_, dim_, start, rows);
    set_weight(projection, w.projection, 0, dim_, w.mlp_in.weight);
    kernels_->add(projection, AddRows{out, out, dim_, w.projection.bias});

    const Product<W> input = normalised(tokens, start, rows);
    for (int column = 0; column < hidden_; column += part) {
      const W* out_weight = w.mlp_out.weight + static_cast<std::ptrdiff_t>(column) * kPanel;
      Product<W> product = input;
      set_weight(product, w.mlp_in, column, part, out_weight);
      products_->store_gelu(product, StoreGelu<T>{work_.hidden + hidden_layout.at(start), hidden_layout, w.mlp_in.bias + column});

      const bool last = column + part == hidden_;
      product = hidden_rows(part, start, rows);
      product.weight = out_weight;
      product.panel_stride = static_cast<std::ptrdiff_t>(hidden_) * kPanel;
      product.panels = dim_ / kPanel;
      product.next_weight = last ? nullptr : w.mlp_in.weight + static_cast<std::ptrdiff_t>(column + part) * dim_;
      product.column_scale = w.mlp_out.column_scale;
      if constexpr (kInt8) product.column_sum = w.mlp_out.column_sum + static_cast<std::ptrdiff_t>(column / part) * dim_;
      products_->add(product, AddRows{out, out, dim_, column == 0 ? w.mlp_out.bias : nullptr});
    }
    if (next_qkv != nullptr) qkv_rows(layer + 1, tokens, start, rows, next_qkv);
  });
}

template class Encoder<float>;
template class Encoder<linear::bf16>;
template class Encoder<float, linear::int8>;
template class Encoder<linear::bf16, linear::int8>;

}  // namespace esat::layers

#include "frame/encoder.h"

#include <algorithm>
#include <cstring>

#include "frame/share.h"

namespace esat::frame {

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
template <class T>
Product<T> from(const T* base, const Layout& layout, const std::vector<std::int32_t>& offsets, int width, int first, int rows) {
  Product<T> product{};
  product.activation = base + layout.at(first);
  product.tile_stride = layout.tile;
  product.row_stride = layout.row;
  product.step_offset = offsets.data();
  product.first_tile = first / kTileRows;
  product.rows = rows;
  product.steps = width / kTileDepth;
  return product;
}

template <class T>
void set_weight(Product<T>& product, const T* weight, int outputs, const T* next) {
  product.weight = weight;
  product.panel_stride = static_cast<std::ptrdiff_t>(product.steps) * kPanelStep;
  product.panels = outputs / kPanel;
  product.next_weight = next;
}

}  // namespace

template <class T>
int Encoder<T>::hidden_part(int hidden) {
  return hidden % kHiddenPart == 0 ? kHiddenPart : hidden;
}

template <class T>
Encoder<T>::Encoder(const linear::Kernels<T>& kernels, int dim, int hidden, int patch_values, std::vector<LayerWeights<T>> layers)
    : kernels_(&kernels), dim_(dim), hidden_(hidden), layers_(std::move(layers)) {
  const int widest = std::max({dim, hidden_part(hidden), patch_values});
  for (int step = 0; step < widest / kTileDepth; ++step) {
    in_layout_.push_back(static_cast<std::int32_t>(step * kernels.layout(widest).step));
    in_rows_.push_back(step * kTileDepth);
  }
}

// Calls work(first row, number of rows) on every thread for its part of [first, count).
template <class T>
template <class Work>
void Encoder<T>::share_rows(int first, int count, const Work& work) const {
  const int unit = kernels_->whole_rows;
#pragma omp parallel
  {
    kernels_->begin();
    const Share mine = share(first, (count + unit - 1) / unit * unit, 2 * unit);
    work(mine.first, mine.count);
    kernels_->end();
  }
}

template <class T>
void Encoder<T>::embed(const T* patches, int count, int width, const T* weight, const float* position, float* tokens) const {
  share_rows(0, count, [&](int first, int rows) {
    Product<T> product = from(patches, linear::rows_layout(width), in_rows_, width, first, rows);
    set_weight(product, weight, dim_, layers_[0].qkv);
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(first) * dim_;
    kernels_->add(product, AddRows{tokens + at, position + at, dim_, nullptr});
  });
}

template <class T>
void Encoder<T>::qkv_rows(int layer, const float* tokens, int first, int rows, T* qkv, const Workspace<T>& work) const {
  const Layout layout = kernels_->layout(dim_);
  const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(first) * dim_;
  kernels_->normalise(tokens + at, rows, dim_, work.normalised + layout.at(first), layout);
  Product<T> product = from<T>(work.normalised, layout, in_layout_, dim_, first, rows);
  set_weight(product, layers_[layer].qkv, 3 * dim_, layers_[layer].projection);
  kernels_->store(product, StoreRows<T>{qkv + 3 * at, 3 * dim_, layers_[layer].qkv_bias});
}

template <class T>
void Encoder<T>::qkv(int layer, const float* tokens, int count, T* qkv, const Workspace<T>& work) const {
  share_rows(0, count, [&](int first, int rows) { qkv_rows(layer, tokens, first, rows, qkv, work); });
}

template <class T>
void Encoder<T>::finish_layer(int layer, const T* attended, float* tokens, int first, int count, T* next_qkv,
                              const Workspace<T>& work) const {
  const LayerWeights<T>& w = layers_[layer];
  const int part = hidden_part(hidden_);
  const Layout layout = kernels_->layout(dim_), hidden_layout = kernels_->layout(part);
  share_rows(first, count, [&](int start, int count_here) {
    float* rows = tokens + static_cast<std::ptrdiff_t>(start) * dim_;
    Product<T> product = from(attended, linear::rows_layout(dim_), in_rows_, dim_, start, count_here);
    set_weight(product, w.projection, dim_, w.mlp_in);
    kernels_->add(product, AddRows{rows, rows, dim_, w.projection_bias});

    kernels_->normalise(rows, count_here, dim_, work.normalised + layout.at(start), layout);
    for (int column = 0; column < hidden_; column += part) {
      const T* out_weight = w.mlp_out + static_cast<std::ptrdiff_t>(column) * kPanel;
      product = from<T>(work.normalised, layout, in_layout_, dim_, start, count_here);
      set_weight(product, w.mlp_in + static_cast<std::ptrdiff_t>(column) * dim_, part, out_weight);
      kernels_->store_gelu(product, StoreGelu<T>{work.hidden + hidden_layout.at(start), hidden_layout, w.mlp_in_bias + column});

      const bool last = column + part == hidden_;
      product = from<T>(work.hidden, hidden_layout, in_layout_, part, start, count_here);
      set_weight(product, out_weight, dim_, last ? nullptr : w.mlp_in + static_cast<std::ptrdiff_t>(column + part) * dim_);
      product.panel_stride = static_cast<std::ptrdiff_t>(hidden_) * kPanel;
      kernels_->add(product, AddRows{rows, rows, dim_, column == 0 ? w.mlp_out_bias : nullptr});
    }
    if (next_qkv != nullptr) qkv_rows(layer + 1, tokens, start, count_here, next_qkv, work);
  });
}

template class Encoder<float>;
template class Encoder<linear::bf16>;

void gather_rows(const void* from, void* to, int row_bytes, int first, const std::int64_t* kept, int count) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
#pragma omp parallel
  {
    const Share mine = share(0, first + count);
    for (int i = mine.first; i < mine.first + mine.count; ++i) {
      const std::int64_t row = i < first ? i : first + kept[i - first];
      std::memcpy(target + static_cast<std::ptrdiff_t>(i) * row_bytes, source + row * row_bytes, row_bytes);
    }
  }
}

}  // namespace esat::frame

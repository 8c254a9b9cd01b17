// The activations of a product as its blocks read them.
#pragma once

#include "linear/linear.h"

namespace esat::linear {
namespace {

// As they lie; the stride in units of 32 bits. A set that reads them in another form specialises this.
template <class T>
struct Operand {
  const float* first;
  std::ptrdiff_t stride;

  explicit Operand(const Product<T>& product)
      : first(reinterpret_cast<const float*>(product.activation)), stride(product.row_stride * static_cast<int>(sizeof(T)) / 4) {}
};

}  // namespace
}  // namespace esat::linear

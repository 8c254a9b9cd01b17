// The matrix product on vector units. Include a common/simd_*.h first.
//
// A block of rows and columns stays in registers over the whole inner dimension (block_*.h). Blocks go down the rows of a chunk for one
// panel after the other, so that the panel's columns and the chunk's activations come from L2. The sum of a row runs over the inner
// dimension in order, whatever block it lies in.
#pragma once

#include <utility>

#include "linear/quantise.h"
//
#if defined(__aarch64__)
#include "linear/block_neon.h"
#else
#include "linear/block_vector.h"
#endif

namespace esat::linear {
namespace {

template <class T>
constexpr int kChunkRows = 768 / sizeof(T);  // at 768 columns 576 KB, which L2 holds

template <class T>
using BlockFunction = decltype(&block<T, 1>);

template <class T, int... Height>
BlockFunction<T> block_of(int rows, std::integer_sequence<int, Height...>) {
  static constexpr BlockFunction<T> kOf[] = {block<T, Height + 1>...};
  return kOf[rows - 1];
}

template <class T, int kBlockRows, class Epilogue>
void multiply(const Product<T>& product, const Epilogue& epilogue) {
  constexpr int kLane = sizeof(float) / sizeof(T);
  alignas(64) float sums[kBlockRows * kPanel];
  const std::ptrdiff_t row_stride = product.row_stride / kLane;
  const std::ptrdiff_t panel_bytes = product.steps * static_cast<std::ptrdiff_t>(kPanelStep<T> * sizeof(T));
  const int chunks = (product.rows + kChunkRows<T> - 1) / kChunkRows<T>;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int first = product.rows * chunk / chunks;
    const int rows = product.rows * (chunk + 1) / chunks - first;
    const int blocks = (rows + kBlockRows - 1) / kBlockRows;
    const int calls = blocks * (kPanel / kBlockColumns<T>);
    const int lines_per_step = (kPanelStep<T> * static_cast<int>(sizeof(T)) / 64 + calls - 1) / calls;
    for (int panel = 0; panel < product.panels; ++panel) {
      const T* weight = product.weight + panel * product.panel_stride;
      const void* next = panel + 1 < product.panels ? weight + product.panel_stride
                         : chunk + 1 < chunks       ? product.weight
                                                    : product.next_weight;
      const char* line = static_cast<const char*>(next);
      Prefetch prefetch{line, next == nullptr ? line : line + panel_bytes};
      for (int b = 0; b < blocks; ++b) {
        const int row = first + rows * b / blocks;  // heights differ by at most one
        const int height = first + rows * (b + 1) / blocks - row;
        const auto run = block_of<T>(height, std::make_integer_sequence<int, kBlockRows>{});
        const float* activation = reinterpret_cast<const float*>(product.activation) + row * row_stride;
        for (int column = 0; column < kPanel; column += kBlockColumns<T>) {
          run(activation, row_stride, product, reinterpret_cast<const float*>(weight), column, sums + column, prefetch, lines_per_step);
        }
        for (int r = 0; r < height; ++r) finish_row(epilogue, sums_of(product, sums + r * kPanel, row + r, panel), row + r, panel);
      }
    }
  }
}

inline void nothing() {}

// kBlockRows: as many rows as a block's registers hold.
template <class T, int kBlockRows>
constexpr Kernels<T> vector_kernels() {
  return {1,
          rows_layout<T>,
          nothing,
          nothing,
          multiply<T, kBlockRows, StoreRows<T>>,
          multiply<T, kBlockRows, StoreGelu<T>>,
          multiply<T, kBlockRows, AddRows>,
          multiply<T, kBlockRows, StoreReluRows<T>>,
          normalise<T>,
          normalise_to_rows<T>};
}

template <class T, int kBlockRows>
constexpr Int8Kernels<T> vector_int8_kernels() {
  return {kPairLimit,
          rows_layout<int8>,
          multiply<int8, kBlockRows, StoreRows<T>>,
          multiply<int8, kBlockRows, StoreGelu<T>>,
          multiply<int8, kBlockRows, AddRows>,
          normalise_quantised,
          quantise<T>};
}

}  // namespace
}  // namespace esat::linear

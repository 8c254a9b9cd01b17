// Matrix products of activations with packed weights, and the row-wise operations between them, in bf16 or float32 (T) with float32 sums.
// Products can also take weights in int8 and activations that were quantised to eight bits row by row; their sums are exact.
//
// Activations: plain rows, or whatever Layout the kernels of an instruction set like best. Rows count in tiles of 16, columns in steps
// of s = 32, or 64 for int8. Packed weight of W [N, K]: [N / 32][K / s][2][s / j][16][j] with j = 4 for int8, 2 for bf16 and 1 for float32,
// element [p][t][h][i][c][d] = W[32 p + 16 h + c][s t + j i + d]: panels of 32 outputs, in the order in which AMX tiles and vectors read
// them. N and K are padded with zeros to whole panels and steps. All functions run on the calling thread, on the rows they are given;
// callers share rows or panels out among threads. Sums do not depend on how rows are shared out, as long as every part but the last holds
// whole pairs of tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/kernel_table.h"

namespace esat::linear {

using bf16 = std::uint16_t;
using int8 = std::int8_t;

constexpr int kTileRows = 16;
constexpr int kPanel = 32;  // outputs of a weight panel
// By the type of the weights: columns of an activation tile, which are one step of the inner dimension; a panel's elements of one step.
template <class W>
constexpr int kTileDepth = sizeof(W) == 1 ? 64 : 32;
template <class W>
constexpr int kPanelStep = kPanel * kTileDepth<W>;

// What int8 weights are multiplied with is unsigned.
template <class W>
using Activation = std::conditional_t<std::is_same_v<W, int8>, std::uint8_t, W>;

// Where the elements of a matrix lie: [row / 16][column / s][row % 16][column % s] with these distances; columns of a step are neighbours.
struct Layout {
  std::ptrdiff_t tile;
  std::ptrdiff_t step;
  std::ptrdiff_t row;

  std::ptrdiff_t at(int r) const { return r / kTileRows * tile + r % kTileRows * row; }
};

// Plain rows of `width` columns. Static, as whatever a set's source file defines: of one name the linker keeps one copy, made for any set.
template <class W>
static Layout rows_layout(int width) {
  return {static_cast<std::ptrdiff_t>(kTileRows) * width, kTileDepth<W>, width};
}

// How a row was quantised: value = scale * (q - zero).
struct RowScale {
  float scale;
  std::int32_t zero;  // 0 .. 255
};

template <class W>
struct Product {
  const Activation<W>* activation;  // the first tile
  std::ptrdiff_t tile_stride;       // elements from tile to tile; 16 row_stride except on AMX
  std::ptrdiff_t row_stride;        // elements from row to row within a tile
  const std::int32_t* step_offset;  // [steps] elements from a tile's start to the columns of each step; any order of memory will do
  int first_tile;                   // number of the first tile within the whole matrix: decides the order of each row's sum on AMX
  int rows;                         // a multiple of Kernels::whole_rows
  int steps;
  const W* weight;              // the first panel
  std::ptrdiff_t panel_stride;  // elements from panel to panel
  int panels;
  const void* next_weight;  // brought into the cache during the last panel; may be null
  // For int8: sum = row_scale.scale * column_scale * (sum of q w - row_scale.zero * column_sum)
  const RowScale* row_scale;       // [rows]
  const float* column_scale;       // [columns] of the weights
  const std::int32_t* column_sum;  // [columns] sums of the int8 weights over the inner dimension
};

// What happens to the sums. `row` counts from the first tile of the product, columns from its first panel.

// out[row * stride + column] = T(sum + bias[column])
template <class T>
struct StoreRows {
  T* out;
  std::ptrdiff_t stride;
  const float* bias;
};

// The same for gelu(sum + bias[column]), in any layout. gelu(x) = x Phi(x) with Phi by a polynomial. For bf16 its error is below 6e-5
// for |x| <= 5.5 and below 1.4e-5 |x| beyond, before the rounding; for float32 below 6e-7 for |x| <= 5.5 and below 1e-7 |x| beyond.
template <class T>
struct StoreGelu {
  T* out;
  Layout layout;
  const float* bias;
};

// out[row * stride + column] = residual[row * stride + column] + sum + bias[column]; bias may be null, residual may be out.
struct AddRows {
  float* out;
  const float* residual;
  std::ptrdiff_t stride;
  const float* bias;
};

// out[row * stride + column] = valid[row] ? T(max(0, sum + bias[column])) : 0, for rows < `rows` only.
template <class T>
struct StoreReluRows {
  T* out;
  std::ptrdiff_t stride;
  const float* bias;
  const std::uint8_t* valid;
  int rows;
};

// One instruction set's operations.
template <class T>
struct Kernels {
  int whole_rows;               // products compute and write rows in multiples of this
  Layout (*layout)(int width);  // what products read best
  // The caller brackets products with these, on the same thread.
  void (*begin)();
  void (*end)();
  void (*store)(const Product<T>& product, const StoreRows<T>& epilogue);
  void (*store_gelu)(const Product<T>& product, const StoreGelu<T>& epilogue);
  void (*add)(const Product<T>& product, const AddRows& epilogue);
  void (*store_relu)(const Product<T>& product, const StoreReluRows<T>& epilogue);
  // (x - mean) / sqrt(variance + 1e-6) of each of `rows` rows of width `dim` (a multiple of 32). Gain and bias of the LayerNorm belong
  // into the weights that follow.
  void (*normalise)(const float* x, int rows, int dim, T* out, const Layout& layout);
  // As rows, times gain plus bias; row r goes to out + place[r] * dim.
  void (*normalise_to_rows)(const float* x, int rows, int dim, const float* gain, const float* bias, const std::int32_t* place, T* out);
};

// Rows quantised to eight bits.
struct QuantisedRows {
  std::uint8_t* values;
  Layout layout;
  RowScale* scale;  // [rows]
};

constexpr int kNoPairLimit = 2 * 127;

// One instruction set's products with int8 weights whose results are T, for use beside the Kernels<T> that the same features choose.
template <class T>
struct Int8Kernels {
  // Weights lie within -127 .. 127, and the sum of those of inputs 2 i and 2 i + 1 within -pair_limit .. pair_limit: kNoPairLimit, or
  // less where pairs of products are added in 16 bits.
  int pair_limit;
  Layout (*layout)(int width);  // of quantised rows
  void (*store)(const Product<int8>& product, const StoreRows<T>& epilogue);
  void (*store_gelu)(const Product<int8>& product, const StoreGelu<T>& epilogue);
  void (*add)(const Product<int8>& product, const AddRows& epilogue);
  // Kernels::normalise, quantised. `dim` is a multiple of 64.
  void (*normalise)(const float* x, int rows, int dim, const QuantisedRows& out);
  // Plain rows of `dim` columns, a multiple of 64. Zero is always exact; q = round(x / scale) + zero, scale = (max - min) / 255.
  // The scale of a row that holds a NaN or an infinity is NaN, and so is every result of that row.
  void (*quantise)(const T* x, int rows, int dim, const QuantisedRows& out);
};

#if defined(__x86_64__)
extern const Kernels<float> kernels_avx2;
extern const Kernels<float> kernels_avx512;
extern const Kernels<bf16> kernels_avx512bf16;
extern const Kernels<bf16> kernels_amx;
extern const Int8Kernels<float> int8_kernels_avx2;
extern const Int8Kernels<float> int8_kernels_avx2vnni;
extern const Int8Kernels<float> int8_kernels_avx512vnni;
extern const Int8Kernels<bf16> int8_kernels_avx512bf16;
extern const Int8Kernels<bf16> int8_kernels_amx;
#elif defined(__aarch64__)
extern const Kernels<float> kernels_neon;
extern const Kernels<bf16> kernels_neonbf16;
extern const Int8Kernels<float> int8_kernels_neondot;
extern const Int8Kernels<float> int8_kernels_neoni8mm;
extern const Int8Kernels<bf16> int8_kernels_neonbf16;
#endif

// The fastest kernels of a type with these features, or null: there are none.
template <class T>
const Kernels<T>* kernels(Features have);
template <class T>
const Int8Kernels<T>* int8_kernels(Features have);

std::vector<Choice> choices(Features have);

}  // namespace esat::linear

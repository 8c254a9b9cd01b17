// The products and LayerNorms of one set of kernels against double, at awkward sizes.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include "check.h"
#include "common/bfloat16.h"
#include "linear/linear.h"

namespace esat::testing {

using linear::bf16;
using linear::kPanel;
using linear::kTileDepth;
using linear::kTileRows;

template <class T>
constexpr double kUnit = std::is_same_v<T, float> ? 6e-8 : 3.91e-3;  // relative error of a rounding to T
template <class T>
constexpr double kGeluError = std::is_same_v<T, float> ? 1e-6 : 6e-5;

inline double widen(float value) { return value; }
inline double widen(bf16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); }
inline void round_to(float& target, float value) { target = value; }
inline void round_to(bf16& target, float value) { target = to_bfloat16(value); }
template <class T>
T not_a_number() {
  if constexpr (std::is_same_v<T, float>) return std::nanf("");
  return static_cast<T>(0x7fc0);
}

inline double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

// One product: activations in the kernels' layout, a packed weight, exact sums.
template <class T>
struct Case {
  const linear::Kernels<T>& kernels;
  int rows, steps, panels;
  int written;  // rows, rounded up to what the kernels write
  linear::Layout layout;
  std::vector<T> activation, weight;
  std::vector<float> bias, residual;
  std::vector<std::int32_t> offsets;
  std::vector<double> sums;  // [written][columns]

  int columns() const { return panels * kPanel; }

  Case(const linear::Kernels<T>& of, int row_count, int step_count, int panel_count, unsigned seed)
      : kernels(of), rows(row_count), steps(step_count), panels(panel_count) {
    const int unit = kernels.whole_rows, width = steps * kTileDepth<T>;
    written = (rows + unit - 1) / unit * unit;
    layout = kernels.layout(width);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const std::size_t whole = static_cast<std::size_t>((rows + kTileRows - 1) / kTileRows) * kTileRows;
    activation.assign(whole * width, not_a_number<T>());
    weight.resize(static_cast<std::size_t>(columns()) * width);
    sums.assign(static_cast<std::size_t>(written) * columns(), 0);
    for (int s = 0; s < steps; ++s) offsets.push_back(static_cast<std::int32_t>(s * layout.step));
    for (int i = 0; i < columns(); ++i) bias.push_back(normal(random));
    for (std::size_t i = 0; i < sums.size(); ++i) residual.push_back(normal(random));
    for (int r = 0; r < written; ++r) {
      for (int k = 0; k < width; ++k) round_to(activation[layout.at(r) + k / 32 * layout.step + k % 32], normal(random));
    }
    constexpr int kLane = 4 / sizeof(T);
    for (int n = 0; n < columns(); ++n) {
      for (int k = 0; k < width; ++k) {
        const std::size_t block = (static_cast<std::size_t>(n / 32) * steps + k / 32) * 2 + n % 32 / 16;
        T& w = weight[((block * (32 / kLane) + k % 32 / kLane) * 16 + n % 16) * kLane + k % kLane];
        round_to(w, normal(random));
        for (int r = 0; r < written; ++r) {
          sums[static_cast<std::size_t>(r) * columns() + n] += widen(activation[layout.at(r) + k / 32 * layout.step + k % 32]) * widen(w);
        }
      }
    }
  }

  // The rows from `first` on.
  linear::Product<T> product(int first, int count) const {
    linear::Product<T> p{};
    p.activation = activation.data() + layout.at(first);
    p.tile_stride = layout.tile;
    p.row_stride = layout.row;
    p.step_offset = offsets.data();
    p.first_tile = first / kTileRows;
    p.rows = count;
    p.steps = steps;
    p.weight = weight.data();
    p.panel_stride = static_cast<std::ptrdiff_t>(steps) * linear::kPanelStep<T>;
    p.panels = panels;
    p.next_weight = weight.data();
    return p;
  }

  double sum_error() const { return 3e-6 * steps * kTileDepth<T>; }
};

template <class T>
void check_store(const Case<T>& c) {
  const int columns = c.columns();
  std::vector<T> out(c.sums.size() + 64, not_a_number<T>());
  c.kernels.store(c.product(0, c.written), {out.data(), columns, c.bias.data()});
  double excess = 0;
  for (std::size_t i = 0; i < c.sums.size(); ++i) {
    const double exact = c.sums[i] + c.bias[i % columns];
    excess = std::max(excess, std::abs(widen(out[i]) - exact) - c.sum_error() - kUnit<T> * std::abs(exact));
  }
  CHECK(excess <= 0);
  for (std::size_t i = c.sums.size(); i < out.size(); ++i) CHECK(std::isnan(widen(out[i])));
  if (c.written <= 2 * kTileRows) return;
  std::vector<T> parts(out.size(), not_a_number<T>());  // shared out at an even tile: the same bits
  const int first = 2 * kTileRows;
  c.kernels.store(c.product(0, first), {parts.data(), columns, c.bias.data()});
  c.kernels.store(c.product(first, c.written - first), {parts.data() + first * columns, columns, c.bias.data()});
  for (std::size_t i = 0; i < c.sums.size(); ++i) CHECK_EQUAL(parts[i], out[i]);
}

template <class T>
void check_gelu(const Case<T>& c) {
  const int columns = c.columns();
  const linear::Layout layout = c.kernels.layout(columns);
  const std::size_t whole = static_cast<std::size_t>((c.rows + kTileRows - 1) / kTileRows) * kTileRows;
  std::vector<T> out(whole * columns, not_a_number<T>());
  c.kernels.store_gelu(c.product(0, c.written), {out.data(), layout, c.bias.data()});
  double excess = 0;
  for (std::size_t i = 0; i < c.sums.size(); ++i) {
    const int row = static_cast<int>(i) / columns, column = static_cast<int>(i) % columns;
    const double x = c.sums[i] + c.bias[column], exact = gelu(x);
    const double seen = widen(out[layout.at(row) + column / 32 * layout.step + column % 32]);
    const double fit = kGeluError<T> + kGeluError<T> / 4 * std::max(0.0, std::abs(x) - 5.5);
    excess = std::max(excess, std::abs(seen - exact) - 1.2 * c.sum_error() - fit - kUnit<T> * std::abs(exact));
  }
  CHECK(excess <= 0);
}

template <class T>
void check_add(const Case<T>& c) {
  for (const bool with_bias : {false, true}) {
    std::vector<float> out = c.residual;  // in place, as the engine does it
    c.kernels.add(c.product(0, c.written), {out.data(), out.data(), c.columns(), with_bias ? c.bias.data() : nullptr});
    double excess = 0;
    for (std::size_t i = 0; i < c.sums.size(); ++i) {
      const double exact = c.sums[i] + c.residual[i] + (with_bias ? c.bias[i % c.columns()] : 0);
      excess = std::max(excess, std::abs(out[i] - exact) - c.sum_error());
    }
    CHECK(excess <= 0);
  }
}

template <class T>
void check_relu(const Case<T>& c) {
  const int columns = c.columns(), kept = std::max(1, c.rows - 1);
  std::vector<std::uint8_t> valid(c.written);
  for (int r = 0; r < c.written; ++r) valid[r] = r % 3 != 1;
  std::vector<T> out(c.sums.size(), not_a_number<T>());
  c.kernels.store_relu(c.product(0, c.written), {out.data(), columns, c.bias.data(), valid.data(), kept});
  double excess = 0;
  for (std::size_t i = 0; i < c.sums.size(); ++i) {
    const int row = static_cast<int>(i) / columns;
    if (row >= kept) {
      CHECK(std::isnan(widen(out[i])));
      continue;
    }
    const double exact = valid[row] ? std::max(0.0, c.sums[i] + c.bias[i % columns]) : 0;
    excess = std::max(excess, std::abs(widen(out[i]) - exact) - (valid[row] ? c.sum_error() : 0) - kUnit<T> * exact);
  }
  CHECK(excess <= 0);
}

// Row `bad` is NaN throughout, the others are bit for bit what they were.
template <class T>
void check_only_row(const std::vector<T>& seen, const std::vector<T>& before, int bad, int columns) {
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (static_cast<int>(i) / columns == bad) {
      CHECK(std::isnan(widen(seen[i])));
    } else {
      CHECK(seen[i] == before[i]);
    }
  }
}

// A NaN among a row's activations reaches all of its results, and no other row's.
template <class T>
void check_not_a_number(const linear::Kernels<T>& kernels) {
  constexpr int kRows = 21;
  const Case<T> clean(kernels, kRows, 2, 2, 99);
  const int columns = clean.columns(), width = 2 * kTileDepth<T>;
  const linear::Layout plain = linear::rows_layout<T>(columns);
  const std::vector<std::uint8_t> valid(clean.written, 1);
  const std::size_t size = clean.sums.size();
  const auto results = [&](const Case<T>& c, std::vector<T>(&out)[3], std::vector<float>(&added)[2]) {
    for (auto& values : out) values.assign(size, T{});
    for (auto& values : added) values.assign(size, 0.0F);
    const linear::Product<T> product = c.product(0, c.written);
    kernels.store(product, {out[0].data(), columns, c.bias.data()});
    kernels.store_gelu(product, {out[1].data(), plain, c.bias.data()});
    kernels.store_relu(product, {out[2].data(), columns, c.bias.data(), valid.data(), c.written});
    kernels.add(product, {added[0].data(), c.residual.data(), columns, c.bias.data()});
    kernels.add(product, {added[1].data(), c.residual.data(), columns, nullptr});
  };
  std::vector<T> out[3], out_before[3];
  std::vector<float> added[2], added_before[2];
  results(clean, out_before, added_before);
  for (const int bad : {0, 3, 16, kRows - 1}) {
    for (const int k : {0, 1, 31, 32, width - 1}) {
      Case<T> c = clean;
      c.activation[c.layout.at(bad) + k / 32 * c.layout.step + k % 32] = not_a_number<T>();
      results(c, out, added);
      for (int i = 0; i < 3; ++i) check_only_row(out[i], out_before[i], bad, columns);
      for (int i = 0; i < 2; ++i) check_only_row(added[i], added_before[i], bad, columns);
    }
    Case<T> c = clean;  // in the residual it stays where it is
    c.residual[static_cast<std::size_t>(bad) * columns + 5] = std::nanf("");
    results(c, out, added);
    for (int i = 0; i < 2; ++i) {
      for (std::size_t at = 0; at < size; ++at) {
        CHECK(at == static_cast<std::size_t>(bad) * columns + 5 ? std::isnan(added[i][at]) : added[i][at] == added_before[i][at]);
      }
    }
  }
}

// The same through LayerNorm.
template <class T>
void check_norms_not_a_number(const linear::Kernels<T>& kernels) {
  constexpr int kRows = 5, kDim = 96;
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kDim), gain(kDim), bias(kDim);
  for (auto* values : {&x, &gain, &bias}) std::generate(values->begin(), values->end(), [&] { return normal(random); });
  const std::vector<std::int32_t> place = {3, 0, 4, 1, 2};
  const linear::Layout layout = kernels.layout(kDim);
  const auto results = [&](std::vector<T>& rows, std::vector<T>& placed) {
    std::vector<T> tiles(kTileRows * kDim);
    kernels.normalise(x.data(), kRows, kDim, tiles.data(), layout);
    rows.clear();
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kDim; ++i) rows.push_back(tiles[layout.at(r) + i / 32 * layout.step + i % 32]);
    }
    placed.assign(kRows * kDim, T{});
    kernels.normalise_to_rows(x.data(), kRows, kDim, gain.data(), bias.data(), place.data(), placed.data());
  };
  std::vector<T> rows, placed, rows_before, placed_before;
  results(rows_before, placed_before);
  for (int bad = 0; bad < kRows; ++bad) {
    for (const int k : {0, 7, 8, kDim - 1}) {
      for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
        float& at = x[bad * kDim + k];
        const float before = at;
        at = value;
        results(rows, placed);
        check_only_row(rows, rows_before, bad, kDim);
        check_only_row(placed, placed_before, place[bad], kDim);
        at = before;
      }
    }
  }
}

template <class T>
void check_norms(const linear::Kernels<T>& kernels, int rows, int dim) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(3.0F, 2.0F);
  std::vector<float> x(static_cast<std::size_t>(rows) * dim), gain(dim), bias(dim);
  for (auto* values : {&x, &gain, &bias}) std::generate(values->begin(), values->end(), [&] { return normal(random); });
  const linear::Layout layout = kernels.layout(dim);
  const std::size_t whole = static_cast<std::size_t>((rows + kTileRows - 1) / kTileRows) * kTileRows;
  std::vector<T> plain(whole * dim), placed(x.size());
  std::vector<std::int32_t> place(rows);
  for (int r = 0; r < rows; ++r) place[r] = rows - 1 - r;
  kernels.normalise(x.data(), rows, dim, plain.data(), layout);
  kernels.normalise_to_rows(x.data(), rows, dim, gain.data(), bias.data(), place.data(), placed.data());
  double excess = 0;
  for (int r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    const float* row = x.data() + static_cast<std::size_t>(r) * dim;
    for (int i = 0; i < dim; ++i) mean += row[i] / static_cast<double>(dim);
    for (int i = 0; i < dim; ++i) variance += (row[i] - mean) * (row[i] - mean) / dim;
    for (int i = 0; i < dim; ++i) {
      const double exact = (row[i] - mean) / std::sqrt(variance + 1e-6), scaled = exact * gain[i] + bias[i];
      const double seen = widen(plain[layout.at(r) + i / 32 * layout.step + i % 32]);
      const double seen_scaled = widen(placed[static_cast<std::size_t>(place[r]) * dim + i]);
      excess = std::max({excess, std::abs(seen - exact) - kUnit<T> * std::abs(exact) - 4e-6,
                         std::abs(seen_scaled - scaled) - kUnit<T> * std::abs(scaled) - 2e-5});
    }
  }
  CHECK(excess <= 0);
}

template <class T>
void check_kernels(const linear::Kernels<T>& kernels) {
  unsigned seed = 1;
  kernels.begin();
  for (const int rows : {1, 5, 13, 16, 37, 97, 203}) {
    for (const auto& [steps, panels] : {std::pair{1, 1}, std::pair{3, 2}, std::pair{12, 1}}) {
      const Case<T> c(kernels, rows, steps, panels, seed++);
      check_store(c);
      check_gelu(c);
      check_add(c);
      check_relu(c);
    }
  }
  check_not_a_number(kernels);
  kernels.end();
  check_norms_not_a_number(kernels);
  for (const int dim : {32, 96, 768}) check_norms(kernels, 19, dim);
}

}  // namespace esat::testing

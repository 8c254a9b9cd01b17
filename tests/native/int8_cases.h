// Quantised rows and the products of one set of kernels with int8 weights, against double, at awkward sizes.
#pragma once

#include "linear_cases.h"

namespace esat::testing {

using linear::int8;

// Rows in the kernels' layout with what they stand for.
struct Quantised {
  linear::Layout layout;
  std::vector<std::uint8_t> values;
  std::vector<linear::RowScale> scale;

  Quantised(const linear::Layout& in, int rows, int dim) : layout(in) {
    const int whole = (rows + kTileRows - 1) / kTileRows * kTileRows;
    values.assign(static_cast<std::size_t>(whole) * dim, 0xab);
    scale.assign(whole, {1.0F, 0});
  }

  linear::QuantisedRows rows() { return {values.data(), layout, scale.data()}; }
  int q(int r, int k) const { return values[layout.at(r) + k / kTileDepth<int8> * layout.step + k % kTileDepth<int8>]; }
  double value(int r, int k) const { return static_cast<double>(scale[r].scale) * (q(r, k) - scale[r].zero); }
};

// Every value within half a step, zero exact, the range used up.
inline void check_row(const Quantised& seen, int row, const std::vector<double>& exact, double slack) {
  double low = 0, high = 0, error = 0;
  for (const double x : exact) low = std::min(low, x), high = std::max(high, x);
  const double step = (high - low) / 255;
  for (std::size_t k = 0; k < exact.size(); ++k) {
    const double value = seen.value(row, static_cast<int>(k));
    error = std::max(error, std::abs(value - exact[k]));
    CHECK(std::isfinite(value));
    if (exact[k] == 0) CHECK(value == 0);
  }
  CHECK(std::abs(seen.scale[row].scale - step) <= 1e-6 * step + slack / 255);
  // The zero point is rounded as well, so that one end of the range can lie half a step outside.
  CHECK(error <= 1.001 * step + slack);
  double inside = 0;
  for (std::size_t k = 0; k < exact.size(); ++k) {
    const int q = seen.q(row, static_cast<int>(k));
    if (q > 0 && q < 255) inside = std::max(inside, std::abs(seen.value(row, static_cast<int>(k)) - exact[k]));
  }
  CHECK(inside <= 0.5001 * step + slack);
}

template <class T>
void check_quantise(const linear::Int8Kernels<T>& kernels, int dim) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const std::vector<std::pair<float, float>> looks = {{0, 1},      {5, 1},      {-5, 1},    {0, 0},   {3, 0},
                                                      {0, 1e-30F}, {0, 1e-38F}, {0, 1e30F}, {40, 100}};
  const int rows = static_cast<int>(looks.size());
  std::vector<T> x(static_cast<std::size_t>(rows) * dim);
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < dim; ++k) round_to(x[static_cast<std::size_t>(r) * dim + k], looks[r].first + looks[r].second * normal(random));
  }
  Quantised seen(kernels.layout(dim), rows, dim);
  kernels.quantise(x.data(), rows, dim, seen.rows());
  for (int r = 0; r < rows; ++r) {
    std::vector<double> exact(dim);
    for (int k = 0; k < dim; ++k) exact[k] = widen(x[static_cast<std::size_t>(r) * dim + k]);
    check_row(seen, r, exact, 1e-35);  // a range below that is zero
  }
}

template <class T>
void check_normalise(const linear::Int8Kernels<T>& kernels, int dim) {
  constexpr int kRows = 19;
  std::mt19937 random(5);
  std::normal_distribution<float> normal(3.0F, 2.0F);
  std::vector<float> x(static_cast<std::size_t>(kRows) * dim);
  std::generate(x.begin(), x.end(), [&] { return normal(random); });
  std::fill(x.begin(), x.begin() + dim, 1.5F);  // a row without variance is a row of zeros
  Quantised seen(kernels.layout(dim), kRows, dim);
  kernels.normalise(x.data(), kRows, dim, seen.rows());
  for (int r = 0; r < kRows; ++r) {
    const float* row = x.data() + static_cast<std::size_t>(r) * dim;
    double mean = 0, variance = 0;
    for (int k = 0; k < dim; ++k) mean += row[k] / static_cast<double>(dim);
    for (int k = 0; k < dim; ++k) variance += (row[k] - mean) * (row[k] - mean) / dim;
    std::vector<double> exact(dim);
    for (int k = 0; k < dim; ++k) exact[k] = (row[k] - mean) / std::sqrt(variance + 1e-6);
    check_row(seen, r, exact, 4e-6);
  }
}

// A row that holds a NaN or an infinity has a NaN for its scale; its neighbours stay as they were.
template <class T>
void check_not_finite(const linear::Int8Kernels<T>& kernels) {
  constexpr int kDim = 128;
  const float bad[] = {std::nanf(""), -std::nanf(""), INFINITY, -INFINITY};
  for (const float value : bad) {
    for (int place = 0; place < kDim; ++place) {
      std::vector<T> x(3 * kDim);
      std::vector<float> wide(3 * kDim);
      for (int i = 0; i < 3 * kDim; ++i) {
        wide[i] = i == kDim + place ? value : static_cast<float>(i % 7 - 3);
        round_to(x[i], wide[i]);
      }
      Quantised seen(kernels.layout(kDim), 3, kDim);
      kernels.quantise(x.data(), 3, kDim, seen.rows());
      CHECK(std::isnan(seen.scale[1].scale) && std::isfinite(seen.scale[0].scale) && std::isfinite(seen.scale[2].scale));
      kernels.normalise(wide.data(), 3, kDim, seen.rows());
      CHECK(std::isnan(seen.scale[1].scale) && std::isfinite(seen.scale[0].scale) && std::isfinite(seen.scale[2].scale));
    }
  }
}

// The largest sums that there can be are exact: no pair of products saturates on its way.
template <class T>
void check_extremes(const linear::Int8Kernels<T>& kernels) {
  const int limit = kernels.pair_limit, half = limit / 2;
  CHECK(limit >= 127 && limit <= linear::kNoPairLimit);
  const std::pair<int, int> pairs[] = {{127, limit - 127}, {limit - 127, 127},  {half, limit - half}, {127, -127},
                                       {-127, 127},        {-127, 127 - limit}, {127 - limit, -127},  {-half, half - limit}};
  for (const auto& [even, odd] : pairs) {
    Quantised rows(kernels.layout(kTileDepth<int8>), kTileRows, kTileDepth<int8>);
    std::fill(rows.values.begin(), rows.values.end(), std::uint8_t{255});
    std::vector<int8> weight(linear::kPanelStep<int8>);  // neighbours in memory are neighbours among the inputs
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<int8>(i % 2 == 0 ? even : odd);
    const std::vector<float> one(kPanel, 1.0F), nothing(static_cast<std::size_t>(kTileRows) * kPanel, 0.0F);
    const std::vector<std::int32_t> sums(kPanel, kTileDepth<int8> / 2 * (even + odd)), offsets = {0};
    std::vector<float> out(nothing.size());
    linear::Product<int8> p{};
    p.activation = rows.values.data();
    p.tile_stride = rows.layout.tile;
    p.row_stride = rows.layout.row;
    p.step_offset = offsets.data();
    p.rows = kTileRows;
    p.steps = 1;
    p.weight = weight.data();
    p.panel_stride = linear::kPanelStep<int8>;
    p.panels = 1;
    p.row_scale = rows.scale.data();
    p.column_scale = one.data();
    p.column_sum = sums.data();
    kernels.add(p, {out.data(), nothing.data(), kPanel, nullptr});
    for (const float sum : out) CHECK(sum == 255.0F * kTileDepth<int8> / 2 * static_cast<float>(even + odd));
  }
}

template <class T>
void check_products(const linear::Kernels<T>& base, const linear::Int8Kernels<T>& kernels, int rows, int steps, int panels, unsigned seed) {
  const int width = steps * kTileDepth<int8>, columns = panels * kPanel;
  const int written = (rows + base.whole_rows - 1) / base.whole_rows * base.whole_rows;
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> byte(0, 255);
  std::normal_distribution<float> normal;
  Quantised activation(kernels.layout(width), written, width);
  for (auto& q : activation.values) q = static_cast<std::uint8_t>(byte(random));
  for (auto& scale : activation.scale) scale = {std::exp(normal(random)), byte(random)};
  std::vector<int8> weight(static_cast<std::size_t>(columns) * width);
  std::vector<float> column_scale(columns), bias(columns), residual(static_cast<std::size_t>(written) * columns);
  std::vector<std::int32_t> column_sum(columns, 0), offsets;
  for (auto* values : {&column_scale, &bias, &residual}) std::generate(values->begin(), values->end(), [&] { return normal(random); });
  for (int s = 0; s < steps; ++s) offsets.push_back(static_cast<std::int32_t>(s * activation.layout.step));
  std::vector<double> sums(residual.size(), 0);
  int before = 0;
  for (int n = 0; n < columns; ++n) {
    for (int k = 0; k < width; ++k) {
      const int neighbour = k % 2 == 0 ? 0 : before;
      const int w =
          std::clamp(byte(random) - 128, std::max(-127, -kernels.pair_limit - neighbour), std::min(127, kernels.pair_limit - neighbour));
      before = w;
      const std::size_t block = (static_cast<std::size_t>(n / 32) * steps + k / 64) * 2 + n % 32 / 16;
      weight[((block * 16 + k % 64 / 4) * 16 + n % 16) * 4 + k % 4] = static_cast<int8>(w);
      column_sum[n] += w;
      for (int r = 0; r < written; ++r) {
        sums[static_cast<std::size_t>(r) * columns + n] += activation.value(r, k) * w * static_cast<double>(column_scale[n]);
      }
    }
  }
  const auto product = [&](int first, int count) {
    linear::Product<int8> p{};
    p.activation = activation.values.data() + activation.layout.at(first);
    p.tile_stride = activation.layout.tile;
    p.row_stride = activation.layout.row;
    p.step_offset = offsets.data();
    p.first_tile = first / kTileRows;
    p.rows = count;
    p.steps = steps;
    p.weight = weight.data();
    p.panel_stride = static_cast<std::ptrdiff_t>(steps) * linear::kPanelStep<int8>;
    p.panels = panels;
    p.row_scale = activation.scale.data() + first;
    p.column_scale = column_scale.data();
    p.column_sum = column_sum.data();
    return p;
  };

  std::vector<T> stored(sums.size()), gelus(sums.size()), parts(sums.size());
  std::vector<float> added = residual;
  const linear::Layout plain = linear::rows_layout<T>(columns);
  kernels.store(product(0, written), {stored.data(), columns, bias.data()});
  kernels.store_gelu(product(0, written), {gelus.data(), plain, bias.data()});
  kernels.add(product(0, written), {added.data(), added.data(), columns, nullptr});
  double excess = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const double sum = sums[i], biased = sum + bias[i % columns], fit = kGeluError<T> * (1 + std::abs(biased) / 4);
    const double rounding = 3e-7 * (std::abs(sum) + std::abs(biased));  // the integers are exact
    excess = std::max({excess, std::abs(widen(stored[i]) - biased) - rounding - kUnit<T> * std::abs(biased),
                       std::abs(widen(gelus[i]) - gelu(biased)) - 1.2 * rounding - fit - kUnit<T> * std::abs(gelu(biased)),
                       std::abs(added[i] - sum - residual[i]) - rounding - 2e-7 * std::abs(residual[i])});
  }
  CHECK(excess <= 0);
  if (written <= 2 * kTileRows) return;
  const int first = 2 * kTileRows;
  kernels.store(product(0, first), {parts.data(), columns, bias.data()});
  kernels.store(product(first, written - first), {parts.data() + first * columns, columns, bias.data()});
  CHECK(parts == stored);
}

template <class T>
void check_int8(const linear::Kernels<T>& base, const linear::Int8Kernels<T>& kernels) {
  check_not_finite(kernels);
  unsigned seed = 1;
  base.begin();
  check_extremes(kernels);
  for (const int rows : {1, 5, 13, 16, 37, 97, 203}) {
    for (const auto& [steps, panels] : {std::pair{1, 1}, std::pair{3, 2}, std::pair{12, 1}}) {
      check_products(base, kernels, rows, steps, panels, seed++);
    }
  }
  base.end();
  for (const int dim : {64, 192, 768}) {
    check_quantise(kernels, dim);
    check_normalise(kernels, dim);
  }
}

}  // namespace esat::testing

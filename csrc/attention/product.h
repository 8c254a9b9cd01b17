// The register-blocked product that the vector kernels are made of. Include a
// simd_*.h first.
#pragma once

#include <cstdint>

namespace esat::attention {
namespace {

// Sum of a[i] b[i], in as many partial sums as there are lanes.
inline float dot(const float* a, const float* b, std::int64_t count) {
  Simd::Vector sum = Simd::zero();
  std::int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) sum = Simd::fma(Simd::load(a + i), Simd::load(b + i), sum);
  float total = Simd::sum(sum);
  for (; i < count; ++i) total += a[i] * b[i];
  return total;
}

// What a lane of 32 bits holds along the inner dimension: one float here. lanes_bf16.h has pairs.
struct Singles {
  static constexpr int kCount = 1;
  static Simd::Vector mac(Simd::Vector a, Simd::Vector b, Simd::Vector sum) { return Simd::fma(a, b, sum); }
};

// A matrix of rows: `stride` floats from one to the next.
struct Rows {
  float* start;
  std::int64_t stride;
};

// C[r][lane] (+)= sum over steps t of A[r a_row + t a_step] * B[t][lane] for R rows and NV vectors of lanes.
template <int R, int NV, bool Add, class Lanes>
[[gnu::always_inline]] inline void product_tile(const float* a, std::int64_t a_row, std::int64_t a_step, Rows b, std::int64_t steps,
                                                Rows c) {
  using Vector = Simd::Vector;
  Vector sum[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) sum[r][n] = Add ? Simd::load(c.start + r * c.stride + n * Simd::kWidth) : Simd::zero();
  }
#pragma GCC unroll 1
  for (const float *place = b.start, *end = b.start + steps * b.stride; place != end; place += b.stride, a += a_step) {
    Vector line[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) line[n] = Simd::load(place + n * Simd::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vector x = Simd::set1(a[r * a_row]);
#pragma GCC unroll 4
      for (int n = 0; n < NV; ++n) sum[r][n] = Lanes::mac(x, line[n], sum[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) Simd::store(c.start + r * c.stride + n * Simd::kWidth, sum[r][n]);
  }
}

// Rows of the register tile: with few vectors more rows, so that a multiplication need not wait for the one before.
template <int NV>
constexpr int kTileRows = Simd::kRows * NV < 8 ? 8 / NV : Simd::kRows;
constexpr std::int64_t kRowsStep = 8;  // a multiple of every kTileRows

// The same for any number of rows. A function of its own: what lives around a call must not take registers from the tile.
template <int NV, bool Add, class Lanes = Singles>
[[gnu::noinline]] void product(const float* a, std::int64_t a_row, std::int64_t a_step, Rows b, std::int64_t rows, std::int64_t steps,
                               Rows c) {
  constexpr int kStep = kTileRows<NV>;
  std::int64_t r = 0;
  for (; r + kStep <= rows; r += kStep) {
    product_tile<kStep, NV, Add, Lanes>(a + r * a_row, a_row, a_step, b, steps, Rows{c.start + r * c.stride, c.stride});
  }
  for (; r < rows; ++r) product_tile<1, NV, Add, Lanes>(a + r * a_row, a_row, a_step, b, steps, Rows{c.start + r * c.stride, c.stride});
}

}  // namespace
}  // namespace esat::attention

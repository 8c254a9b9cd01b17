// The register-blocked product that the vector kernels are made of. Include a
// simd_*.h first.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/add_products.h"

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

// A distance that is known to the compiler: with two that are not, addresses take more registers than there are.
using One = std::integral_constant<std::int64_t, 1>;

// The same of NV vectors, one after the other.
template <int NV>
struct Lines {
  float* start;
  static constexpr std::int64_t stride = NV * Simd::kWidth;
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// The steps of product_tile until fewer than kUnrolled are left; moves a and place on.
template <int R, int NV, class Row, class Step>
[[gnu::always_inline]] inline void add_steps(const float*& a, Row a_row, Step a_step, const float*& place, std::int64_t steps,
                                             Simd::Vector (&sum)[R][NV]) {
  constexpr std::int64_t kStride = Lines<NV>::stride;
  const float* far = a + R / 2 * a_row;
#pragma GCC unroll 1
  for (const float* end = place + steps / kUnrolled * (kUnrolled * kStride); place != end; place += kUnrolled * kStride) {
    // Pointers that g++ cannot see through: it would keep each address in a register of its own, of which there are too few.
    if constexpr (!std::is_same_v<Row, One>) asm("" : "+r"(far));
#pragma GCC unroll 8
    for (int u = 0; u < kUnrolled; ++u) {
      const float *near_values = a + u * a_step, *far_values = far + u * a_step;
      if constexpr (!std::is_same_v<Step, One>) {
        asm("" : "+r"(near_values));
        far_values = near_values + R / 2 * a_row;
      }
      Simd::Vector line[NV];
#pragma GCC unroll 4
      for (int n = 0; n < NV; ++n) line[n] = Simd::load(place + u * kStride + n * Simd::kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) add_products(sum[r], r < R / 2 ? near_values + r * a_row : far_values + (r - R / 2) * a_row, line);
    }
    a += kUnrolled * a_step;
    far += kUnrolled * a_step;
  }
}
#endif

// C[r][lane] (+)= sum over steps t of A[r a_row + t a_step] * B[t][lane] for R rows and NV vectors of lanes.
template <int R, int NV, bool Add, class Lanes, class Row, class Step, class B>
[[gnu::always_inline]] inline void product_tile(const float* a, Row a_row, Step a_step, B b, std::int64_t steps, Rows c) {
  using Vector = Simd::Vector;
  Vector sum[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) sum[r][n] = Add ? Simd::load(c.start + r * c.stride + n * Simd::kWidth) : Simd::zero();
  }
  const float* place = b.start;
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (R > 1 && NV > 1 && std::is_same_v<B, Lines<NV>>) add_steps(a, a_row, a_step, place, steps, sum);
#endif
#pragma GCC unroll 1
  for (const float* end = b.start + steps * b.stride; place != end; place += b.stride, a += a_step) {
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
template <int NV, bool Add, class Lanes = Singles, class Row, class Step, class B>
[[gnu::noinline]] void product(const float* a, Row a_row, Step a_step, B b, std::int64_t rows, std::int64_t steps, Rows c) {
  constexpr int kStep = kTileRows<NV>;
  std::int64_t r = 0;
  for (; r + kStep <= rows; r += kStep) {
    product_tile<kStep, NV, Add, Lanes>(a + r * a_row, a_row, a_step, b, steps, Rows{c.start + r * c.stride, c.stride});
  }
  for (; r < rows; ++r) product_tile<1, NV, Add, Lanes>(a + r * a_row, a_row, a_step, b, steps, Rows{c.start + r * c.stride, c.stride});
}

}  // namespace
}  // namespace esat::attention

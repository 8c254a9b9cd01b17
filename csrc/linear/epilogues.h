// What happens to a row of 32 sums, which are given by sums.plus(i, x): the sums of columns i and following plus x. Include a
// common/simd_*.h first; bf16 needs AVX-512 or NEON with
// bf16.
#pragma once

#include "linear/linear.h"

namespace esat::linear {
namespace {

inline void store_pair(float* out, Simd::Vector low, Simd::Vector high) {
  Simd::store(out, low);
  Simd::store(out + Simd::kWidth, high);
}
#if defined(__AVX512BF16__)
inline void store_pair(bf16* out, __m512 low, __m512 high) {
  _mm512_storeu_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline void store_pair(bf16* out, float32x4_t low, float32x4_t high) {
  vst1q_u16(out, vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high)));
}
#endif

// Phi(x) - 1/2 = x P(u), u = 2 (x / end)^2 - 1, |x| clamped to the end: minimax fit of x * Phi(x), lowest power first.
template <class T>
struct Gelu;
template <>
struct Gelu<bf16> {
  static constexpr float kEnd = 4.2F;
  static constexpr int kDegree = 8;
  static constexpr float kPolynomial[] = {0.16785573959350586F,  -0.08149605989456177F,   0.055842325091362F,
                                          -0.03879304602742195F, 0.024770013988018036F,   -0.01411878690123558F,
                                          0.00866865087300539F,  -0.0054867868311703205F, 0.0018031698418781161F};
};
template <>
struct Gelu<float> {
  static constexpr float kEnd = 5.4F;
  static constexpr int kDegree = 14;
  static constexpr float kPolynomial[] = {0.13092811405658722F,   -0.06532798707485199F,   0.04849940165877342F,   -0.03920932486653328F,
                                          0.03212102875113487F,   -0.025721825659275055F,  0.019608784466981888F,  -0.014064839109778404F,
                                          0.009786770679056644F,  -0.006515176501125097F,  0.0034080203622579575F, -0.0013733134837821126F,
                                          0.0010993098840117455F, -0.0009620090713724494F, 0.0003156306629534811F};
};

template <class T>
inline Simd::Vector gelu(Simd::Vector x) {
  using Fit = Gelu<T>;
  const Simd::Vector end = Simd::set1(Fit::kEnd);
  const Simd::Vector clamped = Simd::min(Simd::max(x, Simd::set1(-Fit::kEnd)), end);
  const Simd::Vector u = Simd::fma(Simd::mul(clamped, clamped), Simd::set1(2 / (Fit::kEnd * Fit::kEnd)), Simd::set1(-1));
  Simd::Vector p = Simd::set1(Fit::kPolynomial[Fit::kDegree]);
#pragma GCC unroll 16
  for (int i = Fit::kDegree - 1; i >= 0; --i) p = Simd::fma(p, u, Simd::set1(Fit::kPolynomial[i]));
  return Simd::mul(x, Simd::fma(clamped, p, Simd::set1(0.5F)));
}

constexpr int kPair = 2 * Simd::kWidth;  // columns that are finished at once

struct FloatSums {
  const float* at;

  Simd::Vector plus(int i, Simd::Vector x) const { return Simd::add(Simd::load(at + i), x); }
};

template <class Sums>
inline Simd::Vector biased(const Sums& sums, const float* bias, int i) {
  return sums.plus(i, Simd::load(bias + i));
}

template <class T, class Sums>
inline void finish_row(const StoreRows<T>& e, const Sums& sums, int row, int panel) {
  const int column = panel * kPanel;
  T* out = e.out + row * e.stride + column;
  const float* bias = e.bias + column;
  for (int i = 0; i < kPanel; i += kPair) store_pair(out + i, biased(sums, bias, i), biased(sums, bias, i + Simd::kWidth));
}

template <class T, class Sums>
inline void finish_row(const StoreGelu<T>& e, const Sums& sums, int row, int panel) {
  T* out = e.out + e.layout.at(row) + panel * e.layout.step;
  const float* bias = e.bias + panel * kPanel;
  for (int i = 0; i < kPanel; i += kPair) {
    store_pair(out + i, gelu<T>(biased(sums, bias, i)), gelu<T>(biased(sums, bias, i + Simd::kWidth)));
  }
}

template <class Sums>
inline void finish_row(const AddRows& e, const Sums& sums, int row, int panel) {
  const int column = panel * kPanel;
  const std::ptrdiff_t at = row * e.stride + column;
  for (int i = 0; i < kPanel; i += Simd::kWidth) {
    Simd::Vector value = biased(sums, e.residual + at, i);
    if (e.bias != nullptr) value = Simd::add(value, Simd::load(e.bias + column + i));
    Simd::store(e.out + at + i, value);
  }
}

template <class T, class Sums>
inline void finish_row(const StoreReluRows<T>& e, const Sums& sums, int row, int panel) {
  if (row >= e.rows) return;
  const int column = panel * kPanel;
  T* out = e.out + row * e.stride + column;
  const float* bias = e.bias + column;
  const Simd::Vector zero = Simd::zero();
  for (int i = 0; i < kPanel; i += kPair) {
    if (e.valid[row] != 0) {
      store_pair(out + i, Simd::max(zero, biased(sums, bias, i)), Simd::max(zero, biased(sums, bias, i + Simd::kWidth)));
    } else {
      store_pair(out + i, zero, zero);
    }
  }
}

}  // namespace
}  // namespace esat::linear

#include "common/simd_avx512.h"

namespace esat::linear {
namespace {
constexpr int kBlockRows = 12;
}
}  // namespace esat::linear

#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<float> kernels_avx512 = vector_kernels<float>();

}  // namespace esat::linear

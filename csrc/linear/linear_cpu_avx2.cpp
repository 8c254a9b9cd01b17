#include "common/simd_avx2.h"

namespace esat::linear {
namespace {
constexpr int kBlockRows = 6;
}
}  // namespace esat::linear

#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<float> kernels_avx2 = vector_kernels<float>();

}  // namespace esat::linear

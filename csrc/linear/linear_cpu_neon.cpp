#include "common/simd_neon.h"

namespace esat::linear {
namespace {
constexpr int kBlockRows = 6;
}
}  // namespace esat::linear

#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<float> kernels_neon = vector_kernels<float>();

}  // namespace esat::linear

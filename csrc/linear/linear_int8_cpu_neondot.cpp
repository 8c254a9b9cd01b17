#include "common/simd_neon.h"

namespace esat::linear {
namespace {
constexpr int kBlockRows = 5;
}
}  // namespace esat::linear

#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_neondot = vector_int8_kernels<float>();

}  // namespace esat::linear

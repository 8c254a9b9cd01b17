#include "common/simd_neon.h"

namespace esat::linear {
namespace {
constexpr int kBlockRows = 12;
}
}  // namespace esat::linear

#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_neoni8mm = vector_int8_kernels<float>();

}  // namespace esat::linear

#include "common/simd_neon.h"

namespace esat::linear {
namespace {
constexpr int kBlockRows = 6;
}
}  // namespace esat::linear

#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_neondot = vector_int8_kernels<float>(Isa::neondot);

}  // namespace esat::linear

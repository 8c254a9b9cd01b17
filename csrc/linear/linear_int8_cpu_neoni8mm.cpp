#include "common/simd_neon.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_neoni8mm = vector_int8_kernels<float, 12>();

}  // namespace esat::linear

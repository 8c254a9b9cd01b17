#include "common/simd_neon.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_neondot = vector_int8_kernels<float, 5>();

}  // namespace esat::linear

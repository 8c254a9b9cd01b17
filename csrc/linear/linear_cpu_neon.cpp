#include "common/simd_neon.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<float> kernels_neon = vector_kernels<float, 6>();

}  // namespace esat::linear

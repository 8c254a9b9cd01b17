#include "common/simd_avx2.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<float> kernels_avx2 = vector_kernels<float, 6>();

}  // namespace esat::linear

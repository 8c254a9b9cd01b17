#include "common/simd_avx512.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<float> kernels_avx512 = vector_kernels<float, 12>();

}  // namespace esat::linear

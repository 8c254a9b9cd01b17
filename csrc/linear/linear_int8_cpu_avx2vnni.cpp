#include "common/simd_avx2.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_avx2vnni = vector_int8_kernels<float, 6>();

}  // namespace esat::linear

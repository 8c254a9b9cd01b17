#include "common/simd_avx512.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Int8Kernels<float> int8_kernels_avx512vnni = vector_int8_kernels<float, 12>();

}  // namespace esat::linear

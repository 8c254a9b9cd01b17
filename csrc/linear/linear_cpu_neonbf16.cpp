#include "common/simd_neon.h"
//
#include "linear/product_vector.h"

namespace esat::linear {

const Kernels<bf16> kernels_neonbf16 = vector_kernels<bf16, 12>();
const Int8Kernels<bf16> int8_kernels_neonbf16 = vector_int8_kernels<bf16, 12>();

}  // namespace esat::linear

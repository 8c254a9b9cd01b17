#include "common/simd_avx512.h"

#include "attention/lanes_bf16.h"

namespace esat::attention {

const ForwardKernel forward_avx512bf16{kMaxRows, forward_workspace, run_forward<Pairs>};

}  // namespace esat::attention

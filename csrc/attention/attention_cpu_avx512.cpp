#include "attention/simd_avx512.h"

#include "attention/forward_lanes.h"

namespace esat::attention {

const ForwardKernel forward_avx512{kMaxRows, forward_workspace, run_forward};

}  // namespace esat::attention

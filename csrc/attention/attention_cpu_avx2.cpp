#include "attention/simd_avx2.h"

#include "attention/forward_lanes.h"

namespace esat::attention {

const ForwardKernel forward_avx2{kMaxRows, forward_workspace, run_forward};

}  // namespace esat::attention

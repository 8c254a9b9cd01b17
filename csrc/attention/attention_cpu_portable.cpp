#include "attention/simd_portable.h"

#include "attention/forward_lanes.h"

namespace esat::attention {

const ForwardKernel forward_portable{kMaxRows, forward_workspace, run_forward};

}  // namespace esat::attention

#include "common/simd_neon.h"

#include "attention/backward_lanes.h"
#include "attention/forward_lanes.h"

namespace esat::attention {

const ForwardKernel forward_neon{kMaxRows, forward_workspace, run_forward<>};
const BackwardKernel backward_neon{backward_workspace, run_backward};

}  // namespace esat::attention

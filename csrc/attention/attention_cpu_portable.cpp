#include "common/simd_portable.h"

#include "attention/backward_lanes.h"
#include "attention/forward_lanes.h"

namespace esat::attention {

const ForwardKernel forward_portable{kMaxRows, forward_workspace, run_forward<>};
const BackwardKernel backward_portable{backward_workspace, run_backward};

}  // namespace esat::attention

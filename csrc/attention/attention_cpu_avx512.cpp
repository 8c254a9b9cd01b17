#include "common/simd_avx512.h"

#include "attention/backward_lanes.h"
#include "attention/forward_lanes.h"

namespace esat::attention {

const ForwardKernel forward_avx512{kMaxRows, forward_workspace, run_forward<>};
const BackwardKernel backward_avx512{backward_workspace, run_backward};

}  // namespace esat::attention

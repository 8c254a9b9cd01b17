// Threads come from the OpenMP runtime that the process has loaded (PyTorch's): `torch.set_num_threads` counts here too.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace esat {

// The number of threads that a parallel region would get now; 1 in a build without OpenMP.
inline int max_threads() {
#if defined(_OPENMP)
  return omp_get_max_threads();
#else
  return 1;
#endif
}

}  // namespace esat

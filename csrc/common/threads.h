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

struct Share {
  int first;
  int count;
};

// The calling thread's part of [first, end) within a parallel region: contiguous, sizes differ by at most one step. Every part but the
// last holds a multiple of `step`.
inline Share share(int first, int end, int step = 1) {
#if defined(_OPENMP)
  const long threads = omp_get_num_threads();
  const long thread = omp_get_thread_num();
#else
  const long threads = 1;
  const long thread = 0;
#endif
  const long length = end > first ? end - first : 0;
  const auto bound = [&](long part) { return part == threads ? length : (length * part / threads + step / 2) / step * step; };
  const long begin = bound(thread);
  return {first + static_cast<int>(begin), static_cast<int>(bound(thread + 1) - begin)};
}

}  // namespace esat

// A thread's part of a range.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace esat::frame {

struct Share {
  int first;
  int count;
};

// The calling thread's part of [first, end) within a parallel region: contiguous, sizes differ by at most one.
inline Share share(int first, int end) {
#if defined(_OPENMP)
  const long threads = omp_get_num_threads();
  const long thread = omp_get_thread_num();
#else
  const long threads = 1;
  const long thread = 0;
#endif
  const long length = end > first ? end - first : 0;
  const int begin = first + static_cast<int>(length * thread / threads);
  return {begin, first + static_cast<int>(length * (thread + 1) / threads) - begin};
}

}  // namespace esat::frame

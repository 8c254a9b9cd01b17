// The sets of kernels that a test looks at: those that this machine can run, or those that are emulated in this build of it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/cpu_features.h"

namespace esat::testing {

inline std::vector<Set> sets() {
#ifdef ESAT_EMULATED_SETS
  std::vector<Set> emulated;
  if (!esat::sets::avx2.runs_on(detected_features())) {
    std::printf("skipped: the emulation needs AVX2\n");
    std::exit(77);
  }
  for (const Set& set : sets_within(kAvx2 | kAvxVnni | kAvx512 | kAvx512Vnni | kAvx512Bf16 | kAmx)) {
    if ((set.needs & ~kAvx2) != 0) emulated.push_back(set);
  }
  return emulated;
#else
  return sets_within(detected_features());
#endif
}

}  // namespace esat::testing

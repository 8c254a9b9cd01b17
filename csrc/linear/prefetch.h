// Brings a range of memory into the L2 cache, a few lines at a time.
#pragma once

#include "linear/linear.h"

namespace esat::linear {
namespace {

struct Prefetch {
  const char* at;
  const char* end;

  void lines(int count) {
    for (int i = 0; i < count && at < end; ++i, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

}  // namespace
}  // namespace esat::linear

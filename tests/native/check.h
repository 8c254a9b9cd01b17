// Checks for the C++ tests: a failed one prints where and what, and the test's exit code is 1.
#pragma once

#include <cstdio>
#include <sstream>
#include <string>

namespace esat::testing {

inline int failures = 0;

template <class Left, class Right>
void check_equal(const Left& left, const Right& right, const char* text, const char* file, int line) {
  if (left == right) return;
  std::ostringstream message;
  message << file << ":" << line << ": " << text << ": " << left << " != " << right;
  std::fprintf(stderr, "%s\n", message.str().c_str());
  ++failures;
}

inline void check(bool good, const char* text, const char* file, int line) {
  if (good) return;
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
  ++failures;
}

}  // namespace esat::testing

#define CHECK(condition) esat::testing::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(left, right) esat::testing::check_equal((left), (right), #left " == " #right, __FILE__, __LINE__)

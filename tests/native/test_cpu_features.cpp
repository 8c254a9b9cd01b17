#include <cstdlib>
#include <stdexcept>
#include <string>

#include "check.h"
#include "common/cpu_features.h"

namespace {

using esat::Isa;

std::string error_of(const char* forced) {
  setenv("ESAT_CPU", forced, 1);
  try {
    esat::active_isa();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void forced_levels() {
  const Isa all[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16, Isa::amx, Isa::neon, Isa::neondot, Isa::neonbf16};
  for (Isa isa : all) {
    const std::string error = error_of(esat::isa_name(isa));
    if (esat::supported(isa)) {
      CHECK_EQUAL(error, "");
      CHECK(esat::active_isa() == isa);
    } else {
      CHECK_EQUAL(error, std::string("ESAT_CPU=") + esat::isa_name(isa) + ": this machine has no more than " +
                             esat::isa_name(esat::detected_isa()));
    }
  }
  CHECK_EQUAL(error_of("sse9"), "ESAT_CPU must be portable, avx2, avx512, avx512bf16 or amx, got 'sse9'");
  CHECK_EQUAL(error_of(""), "");
  CHECK(esat::active_isa() == esat::detected_isa());
  unsetenv("ESAT_CPU");
  CHECK(esat::active_isa() == esat::detected_isa());
}

}  // namespace

int main() {
  forced_levels();
  return esat::testing::failures != 0;
}

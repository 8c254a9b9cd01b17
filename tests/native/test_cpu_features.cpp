#include <cstdlib>
#include <stdexcept>
#include <string>

#include "attention/attention.h"
#include "check.h"
#include "common/kernel_table.h"
#include "crop/crop.h"
#include "linear/linear.h"

namespace {

using esat::Features;
using esat::Set;
namespace sets = esat::sets;

std::string error_of(const char* named) {
  setenv("ESAT_CPU", named, 1);
  try {
    esat::active_features();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void named_sets() {
  const Features detected = esat::detected_features();
  std::string list;
  for (const Set& set : esat::sets_within(detected)) list += (list.empty() ? "" : ", ") + std::string(set.name);
  const auto refusal = [&](const std::string& name) { return "ESAT_CPU must be a set of this machine (" + list + "), got '" + name + "'"; };
  for (const Set& set : esat::sets_within(~Features{0})) {
    const std::string error = error_of(set.name);
    if (set.runs_on(detected)) {
      CHECK_EQUAL(error, "");
      CHECK(esat::active_features() == set.needs);
    } else {
      CHECK_EQUAL(error, refusal(set.name));
    }
  }
  CHECK_EQUAL(error_of("sse9"), refusal("sse9"));
  CHECK_EQUAL(error_of(""), "");
  CHECK(esat::active_features() == detected);
  unsetenv("ESAT_CPU");
  CHECK(esat::active_features() == detected);
}

// Sets are no ladder: each needs its own bits, and two that do not contain each other can both be there.
void independent_bits() {
  const Features both = sets::avx2vnni.needs | sets::avx512.needs;
  CHECK(sets::avx2vnni.runs_on(both));
  CHECK(sets::avx512.runs_on(both));
  CHECK(!sets::avx512vnni.runs_on(both));
  CHECK(!sets::avx2vnni.runs_on(sets::avx512bf16.needs));
  CHECK(!sets::amx.runs_on(sets::avx512bf16.needs));
  CHECK(!sets::neonbf16.runs_on(sets::amx.needs));
  CHECK_EQUAL(std::string(esat::sets_within(both).back().name), "avx512");
}

bool even(const int& call) { return call % 2 == 0; }

void first_that_runs_and_fits() {
  const int kernels[] = {0, 1, 2};
  const esat::Table<int, int> table = {{sets::avx512, &kernels[0], even}, {sets::avx2vnni, &kernels[1]}, {sets::avx2, &kernels[2]}};
  const Features both = sets::avx2vnni.needs | sets::avx512.needs;
  CHECK(esat::best(table, both, 4) == &kernels[0]);
  CHECK(esat::best(table, both, 5) == &kernels[1]);
  CHECK(esat::best(table, sets::avx2.needs, 4) == &kernels[2]);
  CHECK(esat::best(table, sets::portable.needs, 4) == nullptr);
  const esat::Choice row = esat::choice("op", table, both, 5);
  CHECK(row.sets.size() == 2);
  CHECK_EQUAL(std::string(row.chosen), "avx2vnni");
  CHECK(esat::choice("op", table, sets::neon.needs, 5).chosen == nullptr);
}

std::string chosen(const std::string& operation, Features have) {
  for (const auto& rows : {esat::attention::choices(have), esat::linear::choices(have), esat::crop::choices(have)}) {
    for (const esat::Choice& row : rows) {
      if (row.operation == operation) return row.chosen == nullptr ? "none" : row.chosen;
    }
  }
  return "no such operation";
}

// The kernels with the most work an instruction (benchmarks/results/machine-code), by what these processors have.
void taken_by_processors() {
#if defined(__x86_64__)
  const Features sapphire_rapids = sets::amx.needs | sets::avx2vnni.needs, zen4 = sets::avx512bf16.needs, ice_lake = sets::avx512vnni.needs;
  for (const Features have : {sapphire_rapids, zen4, ice_lake}) {
    const bool tiles = have == sapphire_rapids, pairs = have != ice_lake;
    const std::string half = tiles ? "amx" : pairs ? "avx512bf16" : "none";
    CHECK_EQUAL(chosen("attention float32", have), "avx512");
    CHECK_EQUAL(chosen("attention float16", have), "avx512");
    CHECK_EQUAL(chosen("attention bfloat16", have), pairs ? half : "avx512");
    CHECK_EQUAL(chosen("attention backward float32", have), "avx512");
    CHECK_EQUAL(chosen("attention backward bfloat16", have), tiles ? "amx" : "avx512");
    CHECK_EQUAL(chosen("products float32", have), "avx512");
    CHECK_EQUAL(chosen("products bfloat16", have), half);
    CHECK_EQUAL(chosen("products int8, float32 around", have), "avx512vnni");
    CHECK_EQUAL(chosen("products int8, bfloat16 around", have), half);
    CHECK_EQUAL(chosen("crop", have), "avx2");
  }
#endif
}

}  // namespace

int main() {
  named_sets();
  independent_bits();
  first_that_runs_and_fits();
  taken_by_processors();
  return esat::testing::failures != 0;
}

// The Python module. It knows addresses as integers, sizes and strides, and nothing of PyTorch: one build serves every PyTorch.
// Callers check shapes, dtypes and bounds before they pass an address; Python's lock is released while a kernel runs.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "attention/attention.h"
#include "common/cpu_features.h"
#include "common/threads.h"
#include "crop/crop.h"
#include "linear/linear.h"

namespace py = pybind11;

// One line for each op that has a folder csrc/<op> with bindings_<op>.cpp.
#define ESAT_FOR_EACH_OP(OP) OP(attention) OP(crop) OP(decode) OP(elimination) OP(linear) OP(layers)

#define ESAT_DECLARE(op)               \
  namespace esat {                     \
  void bind_##op(py::module_& module); \
  }
ESAT_FOR_EACH_OP(ESAT_DECLARE)

namespace {

std::vector<std::string> names(const std::vector<esat::Set>& sets) {
  std::vector<std::string> found;
  for (const esat::Set& set : sets) found.emplace_back(set.name);
  return found;
}

py::list kernel_table() {
  const esat::Features have = esat::active_features();
  py::list rows;
  for (const auto& choices : {esat::attention::choices(have), esat::linear::choices(have), esat::crop::choices(have)}) {
    for (const esat::Choice& row : choices) rows.append(py::make_tuple(row.operation, row.sets, row.chosen));
  }
  return rows;
}

}  // namespace

PYBIND11_MODULE(_esat_native, module) {
  module.doc() = "ESAT kernels on raw memory.";
  module.attr("interface") = 1;  // a new number where what Python passes changes: esat_kernels/_native.py has the same
  module.def("cpu_isa", [] { return esat::sets_within(esat::active_features()).back().name; }, "The best set that the kernels use now.");
  module.def("cpu_sets", [] { return names(esat::sets_within(esat::detected_features())); }, "Sets of this machine, the least first.");
  module.def("kernel_table", &kernel_table, "(operation, its sets, the best first, the one that is taken now or None) of each operation.");
  module.def("max_threads", &esat::max_threads, "Threads of the next parallel region.");
  py::dict build;
  build["compiler"] = ESAT_COMPILER;
  build["openmp"] = ESAT_OPENMP;
  module.attr("build_info") = build;
#define ESAT_BIND(op) esat::bind_##op(module);
  ESAT_FOR_EACH_OP(ESAT_BIND)
}

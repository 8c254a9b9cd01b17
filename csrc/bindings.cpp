// The Python module. It knows addresses as integers, sizes and strides, and nothing of PyTorch: one build serves every PyTorch.
// Callers check shapes, dtypes and bounds before they pass an address; Python's lock is released while a kernel runs.

#include <pybind11/pybind11.h>

#include "common/cpu_features.h"
#include "common/threads.h"

namespace py = pybind11;

// One line for each op that has a folder csrc/<op> with bindings_<op>.cpp.
#define ESAT_FOR_EACH_OP(OP) OP(attention) OP(crop) OP(decode) OP(elimination) OP(frame)

#define ESAT_DECLARE(op)               \
  namespace esat {                     \
  void bind_##op(py::module_& module); \
  }
ESAT_FOR_EACH_OP(ESAT_DECLARE)
#if defined(ESAT_HAVE_CUDA)
ESAT_DECLARE(cuda)
#endif

PYBIND11_MODULE(_esat_native, module) {
  module.doc() = "ESAT kernels on raw memory.";
  module.def("cpu_isa", [] { return esat::isa_name(esat::active_isa()); }, "The instruction set that the CPU kernels use now.");
  module.def("max_threads", &esat::max_threads, "Threads of the next parallel region.");
  py::dict build;
  build["compiler"] = ESAT_COMPILER;
  build["openmp"] = ESAT_OPENMP;
  build["cuda"] = ESAT_CUDA_STATUS;
  module.attr("build_info") = build;
#define ESAT_BIND(op) esat::bind_##op(module);
  ESAT_FOR_EACH_OP(ESAT_BIND)
#if defined(ESAT_HAVE_CUDA)
  ESAT_BIND(cuda)
#endif
}

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "linear/linear.h"

namespace py = pybind11;

namespace esat {
namespace {

template <class T>
void bind_kernels(py::module_& module, const char* name) {
  using Kernels = linear::Kernels<T>;
  py::class_<Kernels>(module, name, "One instruction set's operations on one type; see linear/linear.h.")
      .def_property_readonly("int8_pair_limit",
                             [](const Kernels&) {
                               const auto* products = linear::int8_kernels<T>(active_features());
                               return products == nullptr ? 0 : products->pair_limit;  // 0: there are none
                             })
      .def(
          "normalise_to_rows",
          [](const Kernels& self, uintptr_t x, int rows, int dim, uintptr_t gain, uintptr_t bias, uintptr_t place, uintptr_t out) {
            const py::gil_scoped_release release;
            self.normalise_to_rows(reinterpret_cast<const float*>(x), rows, dim, reinterpret_cast<const float*>(gain),
                                   reinterpret_cast<const float*>(bias), reinterpret_cast<const int32_t*>(place),
                                   reinterpret_cast<T*>(out));
          },
          py::arg("x"), py::arg("rows"), py::arg("dim"), py::arg("gain"), py::arg("bias"), py::arg("place"), py::arg("out"),
          "LayerNorm of each row of x; row r goes to row place[r] of out.");
}

py::object kernels(const std::string& dtype) {
  const Features have = active_features();
  const auto reference = py::return_value_policy::reference;
  if (dtype == "float32") return py::cast(linear::kernels<float>(have), reference);
  if (dtype == "bfloat16") return py::cast(linear::kernels<linear::bf16>(have), reference);
  throw std::invalid_argument("kernels: dtype must be float32 or bfloat16, got '" + dtype + "'");
}

}  // namespace

void bind_linear(py::module_& module) {
  bind_kernels<float>(module, "KernelsFloat32");
  bind_kernels<linear::bf16>(module, "KernelsBfloat16");
  module.def("kernels", &kernels, py::arg("dtype"), "The fastest products of a dtype here, None where there are none. Obeys ESAT_CPU.");
}

}  // namespace esat

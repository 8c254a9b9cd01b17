#include <pybind11/pybind11.h>

#include "decode/decode.h"

namespace py = pybind11;

namespace esat {

void bind_decode(py::module_& module) {
  module.def(
      "decode_maps",
      [](uintptr_t score, uintptr_t size, uintptr_t offset, uintptr_t window, int64_t batch, int64_t side, uintptr_t box,
         uintptr_t raw_score, uintptr_t weighted_score, uintptr_t index) {
        const py::gil_scoped_release release;
        decode_maps({reinterpret_cast<const float*>(score), reinterpret_cast<const float*>(size), reinterpret_cast<const float*>(offset),
                     reinterpret_cast<const float*>(window), batch, side, reinterpret_cast<float*>(box),
                     reinterpret_cast<float*>(raw_score), reinterpret_cast<float*>(weighted_score), reinterpret_cast<int64_t*>(index)});
      },
      py::arg("score"), py::arg("size"), py::arg("offset"), py::arg("window"), py::arg("batch"), py::arg("side"), py::arg("box"),
      py::arg("raw_score"), py::arg("weighted_score"), py::arg("index"), "The box at the first maximum of score * window (0: no window).");
}

}  // namespace esat

#include <pybind11/pybind11.h>

#include "elimination/elimination.h"

namespace py = pybind11;

namespace esat {

void bind_elimination(py::module_& module) {
  module.def(
      "select_tokens",
      [](uintptr_t scores, int64_t row_stride, int64_t batch, int64_t n, int64_t keep, uintptr_t kept) {
        const py::gil_scoped_release release;
        select_tokens({reinterpret_cast<const float*>(scores), row_stride, batch, n, keep, reinterpret_cast<int64_t*>(kept)});
      },
      py::arg("scores"), py::arg("row_stride"), py::arg("batch"), py::arg("n"), py::arg("keep"), py::arg("kept"),
      "Positions of the largest scores of each row, ascending: int64 [batch, keep].");
  module.def(
      "gather_tokens",
      [](uintptr_t tokens, int64_t batch_stride, int64_t token_stride, int64_t row_bytes, int64_t batch, int64_t num_template,
         int64_t num_search, uintptr_t kept, int64_t num_kept, uintptr_t out) {
        const py::gil_scoped_release release;
        gather_tokens({reinterpret_cast<const uint8_t*>(tokens), batch_stride, token_stride, row_bytes, batch, num_template, num_search,
                       reinterpret_cast<const int64_t*>(kept), num_kept, reinterpret_cast<uint8_t*>(out)});
      },
      py::arg("tokens"), py::arg("batch_stride"), py::arg("token_stride"), py::arg("row_bytes"), py::arg("batch"), py::arg("num_template"),
      py::arg("num_search"), py::arg("kept"), py::arg("num_kept"), py::arg("out"),
      "Template rows and kept rows, compact. Strides in bytes.");
  module.def(
      "scatter_tokens",
      [](uintptr_t tokens, int64_t batch_stride, int64_t token_stride, int64_t row_bytes, int64_t batch, uintptr_t kept, int64_t num_kept,
         int64_t length, uintptr_t out) {
        const py::gil_scoped_release release;
        scatter_tokens({reinterpret_cast<const uint8_t*>(tokens), batch_stride, token_stride, row_bytes, batch,
                        reinterpret_cast<const int64_t*>(kept), num_kept, length, reinterpret_cast<uint8_t*>(out)});
      },
      py::arg("tokens"), py::arg("batch_stride"), py::arg("token_stride"), py::arg("row_bytes"), py::arg("batch"), py::arg("kept"),
      py::arg("num_kept"), py::arg("length"), py::arg("out"), "Kept rows back at their places, zeros elsewhere. Strides in bytes.");
}

}  // namespace esat

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "frame/encoder.h"
#include "frame/head.h"

namespace py = pybind11;

namespace esat {
namespace {

using frame::bf16;
using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// qkv, projection, mlp_in, mlp_out: weights, then their biases.
frame::LayerWeights layer_weights(const std::array<Address, 8>& a) {
  return {at<bf16>(a[0]),  at<bf16>(a[1]),  at<bf16>(a[2]),  at<bf16>(a[3]),
          at<float>(a[4]), at<float>(a[5]), at<float>(a[6]), at<float>(a[7])};
}

}  // namespace

void bind_frame(py::module_& module) {
  const py::call_guard<py::gil_scoped_release> unlocked;
  py::class_<frame::Encoder>(module, "Encoder",
                             "The layers around attention, on AMX tiles. Addresses must stay valid; see frame/encoder.h.")
      .def(py::init([](int dim, int hidden, int patch_values, const std::vector<std::array<Address, 8>>& layers) {
             std::vector<frame::LayerWeights> weights;
             for (const auto& layer : layers) weights.push_back(layer_weights(layer));
             return frame::Encoder(dim, hidden, patch_values, std::move(weights));
           }),
           py::arg("dim"), py::arg("hidden"), py::arg("patch_values"), py::arg("layers"))
      .def_static("hidden_part", &frame::Encoder::hidden_part)
      .def(
          "embed",
          [](const frame::Encoder& self, Address patches, int count, int width, Address weight, Address position, Address tokens) {
            self.embed(at<bf16>(patches), count, width, at<bf16>(weight), at<float>(position), at<float>(tokens));
          },
          unlocked)
      .def(
          "qkv",
          [](const frame::Encoder& self, int layer, Address tokens, int count, Address qkv, Address tiles) {
            self.qkv(layer, at<float>(tokens), count, at<bf16>(qkv), {at<bf16>(tiles), nullptr});
          },
          unlocked)
      .def(
          "finish_layer",
          [](const frame::Encoder& self, int layer, Address attended, Address tokens, int first, int count, Address next_qkv, Address tiles,
             Address hidden) {
            self.finish_layer(layer, at<bf16>(attended), at<float>(tokens), first, count, at<bf16>(next_qkv),
                              {at<bf16>(tiles), at<bf16>(hidden)});
          },
          unlocked);
  module.def(
      "gather_rows",
      [](Address from, Address to, int row_bytes, int first, Address kept, int count) {
        frame::gather_rows(at<void>(from), at<void>(to), row_bytes, first, at<std::int64_t>(kept), count);
      },
      unlocked);
  module.def(
      "normalise_to_rows",
      [](Address x, int rows, int dim, Address gain, Address bias, Address place, Address out) {
        linear::normalise_to_rows(at<float>(x), rows, dim, at<float>(gain), at<float>(bias), at<std::int32_t>(place), at<bf16>(out));
      },
      unlocked);
  module.def(
      "convolve",
      [](Address input, Address weight, Address bias, int inputs, int outputs, int width, int pixels, int shift, Address valid,
         Address output) {
        frame::convolve(at<bf16>(input), {at<bf16>(weight), at<float>(bias), inputs, outputs},
                        {width, pixels, shift, at<std::uint8_t>(valid)}, at<bf16>(output));
      },
      unlocked);
}

}  // namespace esat

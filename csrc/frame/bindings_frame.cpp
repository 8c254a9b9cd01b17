#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>

#include "common/cpu_features.h"
#include "frame/encoder.h"
#include "frame/head.h"

namespace py = pybind11;

namespace esat {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using DenseAddresses = std::array<Address, 4>;  // weight, bias, column scale, column sum

template <class W>
frame::Dense<W> dense(const DenseAddresses& a) {
  return {at<W>(a[0]), at<float>(a[1]), at<float>(a[2]), at<std::int32_t>(a[3])};
}

// Addresses of the buffers of frame::Workspace.
template <class T, class W>
frame::Workspace<T, W> workspace(const std::array<Address, 5>& a) {
  return {at<linear::Activation<W>>(a[0]), at<T>(a[1]), at<std::uint8_t>(a[2]), at<linear::RowScale>(a[3]), at<linear::RowScale>(a[4])};
}

template <class T, class W = T>
void bind_encoder(py::module_& module, const char* name) {
  using Encoder = frame::Encoder<T, W>;
  const py::call_guard<py::gil_scoped_release> unlocked;
  py::class_<Encoder>(module, name, "The layers around attention. Addresses must stay valid; see frame/encoder.h.")
      .def(
          "embed",
          [](const Encoder& self, Address patches, int count, int width, Address weight, Address position, Address tokens) {
            self.embed(at<T>(patches), count, width, at<T>(weight), at<float>(position), at<float>(tokens));
          },
          unlocked)
      .def(
          "qkv",
          [](const Encoder& self, int layer, Address tokens, int count, Address qkv, const std::array<Address, 5>& work) {
            self.qkv(layer, at<float>(tokens), count, at<T>(qkv), workspace<T, W>(work));
          },
          unlocked)
      .def(
          "finish_layer",
          [](const Encoder& self, int layer, Address attended, Address tokens, int first, int count, Address next_qkv,
             const std::array<Address, 5>& work) {
            self.finish_layer(layer, at<T>(attended), at<float>(tokens), first, count, at<T>(next_qkv), workspace<T, W>(work));
          },
          unlocked);
}

// Each layer's q k v, projection and both products of the MLP.
template <class T, class W>
frame::Encoder<T, W> encoder(const linear::Kernels<T>& kernels, const typename frame::Encoder<T, W>::Products& products, int dim,
                             int hidden, int patch_values, const std::vector<std::array<DenseAddresses, 4>>& layers) {
  std::vector<frame::LayerWeights<T, W>> weights;
  for (const auto& layer : layers) weights.push_back({dense<W>(layer[0]), dense<T>(layer[1]), dense<W>(layer[2]), dense<W>(layer[3])});
  return {kernels, products, dim, hidden, patch_values, std::move(weights)};
}

template <class T>
void bind_kernels(py::module_& module, const char* name) {
  using Kernels = linear::Kernels<T>;
  const py::call_guard<py::gil_scoped_release> unlocked;
  py::class_<Kernels>(module, name, "One instruction set's operations on one type; see linear/linear.h.")
      .def(
          "encoder",
          [](const Kernels& self, int dim, int hidden, int patch_values, const std::vector<std::array<DenseAddresses, 4>>& layers) {
            return encoder<T, T>(self, self, dim, hidden, patch_values, layers);
          },
          py::arg("dim"), py::arg("hidden"), py::arg("patch_values"), py::arg("layers"))
      .def_property_readonly("int8_pair_limit",
                             [](const Kernels&) {
                               const auto* products = linear::int8_kernels<T>(active_features());
                               return products == nullptr ? 0 : products->pair_limit;  // 0: there are none
                             })
      .def(
          "int8_encoder",
          [](const Kernels& self, int dim, int hidden, int patch_values, const std::vector<std::array<DenseAddresses, 4>>& layers) {
            const auto* products = linear::int8_kernels<T>(active_features());
            if (products == nullptr) throw std::invalid_argument("no products of int8 in this set");
            return encoder<T, linear::int8>(self, *products, dim, hidden, patch_values, layers);
          },
          py::arg("dim"), py::arg("hidden"), py::arg("patch_values"), py::arg("layers"))
      .def(
          "normalise_to_rows",
          [](const Kernels& self, Address x, int rows, int dim, Address gain, Address bias, Address place, Address out) {
            self.normalise_to_rows(at<float>(x), rows, dim, at<float>(gain), at<float>(bias), at<std::int32_t>(place), at<T>(out));
          },
          unlocked)
      .def(
          "convolve",
          [](const Kernels& self, Address input, Address weight, Address bias, int inputs, int outputs, int width, int pixels, int shift,
             Address valid, Address output) {
            frame::convolve<T>(self, at<T>(input), {at<T>(weight), at<float>(bias), inputs, outputs},
                               {width, pixels, shift, at<std::uint8_t>(valid)}, at<T>(output));
          },
          unlocked);
}

py::object kernels(const std::string& dtype) {
  const Features have = active_features();
  const auto reference = py::return_value_policy::reference;
  if (dtype == "float32") return py::cast(linear::kernels<float>(have), reference);
  if (dtype == "bfloat16") return py::cast(linear::kernels<linear::bf16>(have), reference);
  throw std::invalid_argument("kernels: dtype must be float32 or bfloat16, got '" + dtype + "'");
}

}  // namespace

void bind_frame(py::module_& module) {
  bind_encoder<float>(module, "EncoderFloat32");
  bind_encoder<linear::bf16>(module, "EncoderBfloat16");
  bind_encoder<float, linear::int8>(module, "EncoderFloat32Int8");
  bind_encoder<linear::bf16, linear::int8>(module, "EncoderBfloat16Int8");
  bind_kernels<float>(module, "KernelsFloat32");
  bind_kernels<linear::bf16>(module, "KernelsBfloat16");
  module.def("kernels", &kernels, py::arg("dtype"), "The fastest products of a dtype here, None where there are none. Obeys ESAT_CPU.");
  module.def("hidden_part", &frame::hidden_part, py::arg("hidden"), "Columns of the hidden layer that are computed at a time.");
  module.def(
      "gather_rows",
      [](Address from, Address to, int row_bytes, int first, Address kept, int count) {
        frame::gather_rows(at<void>(from), at<void>(to), row_bytes, first, at<std::int64_t>(kept), count);
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace esat

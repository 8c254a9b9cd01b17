#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>

#include "layers/convolution.h"
#include "layers/encoder.h"

namespace py = pybind11;

namespace esat {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

using DenseAddresses = std::array<Address, 4>;         // weight, bias, column scale, column sum
using LayerAddresses = std::array<DenseAddresses, 4>;  // q k v, projection and both products of the MLP
using WorkspaceAddresses = std::array<Address, 5>;     // in the order of layers::Workspace

template <class W>
layers::Dense<W> dense(const DenseAddresses& a) {
  return {at<W>(a[0]), at<float>(a[1]), at<float>(a[2]), at<std::int32_t>(a[3])};
}

template <class T, class W>
void bind_encoder(py::module_& module, const char* name) {
  using Encoder = layers::Encoder<T, W>;
  const py::call_guard<py::gil_scoped_release> unlocked;
  py::class_<Encoder>(module, name, "The layers around attention. Addresses must stay valid; see layers/encoder.h.")
      .def(
          "embed",
          [](const Encoder& self, Address patches, int count, Address position, Address tokens) {
            self.embed(at<T>(patches), count, at<float>(position), at<float>(tokens));
          },
          unlocked)
      .def(
          "qkv",
          [](const Encoder& self, int layer, Address tokens, int count, Address qkv) {
            self.qkv(layer, at<float>(tokens), count, at<T>(qkv));
          },
          unlocked)
      .def(
          "finish_layer",
          [](const Encoder& self, int layer, Address attended, Address tokens, int first, int count, Address next_qkv) {
            self.finish_layer(layer, at<T>(attended), at<float>(tokens), first, count, at<T>(next_qkv));
          },
          unlocked);
}

template <class T, class W>
layers::Encoder<T, W> encoder(const linear::Kernels<T>& kernels, const typename layers::Encoder<T, W>::Products& products, int dim,
                              int hidden, int patch_values, Address patch, const std::vector<LayerAddresses>& addresses,
                              const WorkspaceAddresses& w) {
  std::vector<layers::LayerWeights<T, W>> weights;
  for (const auto& layer : addresses) weights.push_back({dense<W>(layer[0]), dense<T>(layer[1]), dense<W>(layer[2]), dense<W>(layer[3])});
  return {kernels,
          products,
          dim,
          hidden,
          patch_values,
          at<T>(patch),
          std::move(weights),
          {at<linear::Activation<W>>(w[0]), at<T>(w[1]), at<std::uint8_t>(w[2]), at<linear::RowScale>(w[3]), at<linear::RowScale>(w[4])}};
}

// Functions of the same names for each T, which the kernels of bindings_linear.cpp tell apart.
template <class T>
void bind_type(py::module_& module) {
  using Kernels = linear::Kernels<T>;
  module.def("encoder", [](const Kernels& kernels, int dim, int hidden, int patch_values, Address patch,
                           const std::vector<LayerAddresses>& addresses, const WorkspaceAddresses& work) {
    return encoder<T, T>(kernels, kernels, dim, hidden, patch_values, patch, addresses, work);
  });
  module.def("int8_encoder", [](const Kernels& kernels, int dim, int hidden, int patch_values, Address patch,
                                const std::vector<LayerAddresses>& addresses, const WorkspaceAddresses& work) {
    const auto* products = linear::int8_kernels<T>(active_features());
    if (products == nullptr) throw std::invalid_argument("no products of int8 in this set");
    return encoder<T, linear::int8>(kernels, *products, dim, hidden, patch_values, patch, addresses, work);
  });
  module.def(
      "convolve",
      [](const Kernels& kernels, Address input, Address weight, Address bias, int inputs, int outputs, int width, int pixels, int shift,
         Address valid, Address output) {
        layers::convolve<T>(kernels, at<T>(input), {at<T>(weight), at<float>(bias), inputs, outputs},
                            {width, pixels, shift, at<std::uint8_t>(valid)}, at<T>(output));
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace

void bind_layers(py::module_& module) {
  bind_encoder<float, float>(module, "EncoderFloat32");
  bind_encoder<linear::bf16, linear::bf16>(module, "EncoderBfloat16");
  bind_encoder<float, linear::int8>(module, "EncoderFloat32Int8");
  bind_encoder<linear::bf16, linear::int8>(module, "EncoderBfloat16Int8");
  bind_type<float>(module);
  bind_type<linear::bf16>(module);
  module.def("hidden_part", &layers::hidden_part, py::arg("hidden"), "Columns of the hidden layer that are computed at a time.");
}

}  // namespace esat

// Force-directed attention for Python: addresses, sizes and strides (in
// elements) of tensors that Python has checked.

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "attention/attention.h"

namespace py = pybind11;

namespace esat {
namespace {

using attention::Problem;
using attention::Strides;
using Address = std::uintptr_t;
using Triple = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Strides strides(const Triple& triple) { return {std::get<0>(triple), std::get<1>(triple), std::get<2>(triple)}; }

Problem problem(const std::string& dtype, const std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>& shape,
                const std::tuple<float, float, float, float>& constants) {
  const attention::Dtype type = dtype == "float32"    ? attention::Dtype::f32
                                : dtype == "bfloat16" ? attention::Dtype::bf16
                                                      : attention::Dtype::f16;
  const auto [batch, heads, tokens, head_dim] = shape;
  const auto [alpha, beta, delta, scale] = constants;
  return {type, batch, heads, tokens, head_dim, alpha, beta, delta, scale};
}

}  // namespace

void bind_attention(py::module_& module) {
  using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
  using Constants = std::tuple<float, float, float, float>;
  module.def(
      "fda_forward",
      [](const std::string& dtype, const Shape& shape, const Constants& constants, Address query, const Triple& query_strides, Address key,
         const Triple& key_strides, Address value, const Triple& value_strides, Address out, const Triple& out_strides, Address lse,
         Address scores, std::int64_t num_template, std::int64_t template_token) {
        const attention::Forward call{problem(dtype, shape, constants),
                                      at<const void>(query),
                                      at<const void>(key),
                                      at<const void>(value),
                                      strides(query_strides),
                                      strides(key_strides),
                                      strides(value_strides),
                                      at<void>(out),
                                      strides(out_strides),
                                      at<float>(lse),
                                      at<float>(scores),
                                      num_template,
                                      template_token};
        const Features have = active_features();
        attention::Counters counters;
        {
          const py::gil_scoped_release release;
          counters = attention::forward(call, have);
        }
        return py::make_tuple(counters.skipped_blocks, counters.blocks, counters.redone_rows);
      },
      "Fused forward. Returns (16 x 16 blocks whose attraction was skipped, "
      "blocks, rows done again with their exact maximum).");
  module.def(
      "fda_backward",
      [](const std::string& dtype, const Shape& shape, const Constants& constants, Address dout, const Triple& dout_strides, Address query,
         const Triple& query_strides, Address key, const Triple& key_strides, Address value, const Triple& value_strides, Address out,
         const Triple& out_strides, Address lse, Address dquery, Address dkey, Address dvalue, const Triple& grad_strides) {
        const attention::Backward call{problem(dtype, shape, constants),
                                       at<const void>(dout),
                                       at<const void>(query),
                                       at<const void>(key),
                                       at<const void>(value),
                                       at<const void>(out),
                                       strides(dout_strides),
                                       strides(query_strides),
                                       strides(key_strides),
                                       strides(value_strides),
                                       strides(out_strides),
                                       at<const float>(lse),
                                       at<void>(dquery),
                                       at<void>(dkey),
                                       at<void>(dvalue),
                                       strides(grad_strides)};
        const Features have = active_features();
        const py::gil_scoped_release release;
        attention::backward(call, have);
      },
      "Fused backward.");
}

}  // namespace esat

// The CUDA attention kernel for Python: addresses, sizes, strides (in elements) and a stream. Empty in a build without CUDA.

#if defined(ESAT_HAVE_CUDA)

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "attention/attention_cuda.h"

namespace py = pybind11;

namespace esat {
namespace {

using Address = std::uintptr_t;
using Triple = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

cuda::Strides strides(const Triple& triple) { return {std::get<0>(triple), std::get<1>(triple), std::get<2>(triple)}; }

}  // namespace

void bind_cuda(py::module_& module) {
  module.def(
      "fda_forward_cuda",
      [](const std::string& dtype, const std::tuple<int, int, int, int>& shape, const std::tuple<float, float, float, float>& constants,
         Address query, const Triple& query_strides, Address key, const Triple& key_strides, Address value, const Triple& value_strides,
         Address out, const Triple& out_strides, Address lse, Address row_logits, Address scores, int num_template, int template_token,
         int rows, Address stream) {
        cuda::Forward call{};
        call.query = reinterpret_cast<const void*>(query);
        call.key = reinterpret_cast<const void*>(key);
        call.value = reinterpret_cast<const void*>(value);
        call.out = reinterpret_cast<void*>(out);
        call.query_strides = strides(query_strides);
        call.key_strides = strides(key_strides);
        call.value_strides = strides(value_strides);
        call.out_strides = strides(out_strides);
        call.lse = reinterpret_cast<float*>(lse);
        call.row_logits = reinterpret_cast<float*>(row_logits);
        call.scores = reinterpret_cast<float*>(scores);
        int head_dim = 0;
        std::tie(call.batch, call.heads, call.tokens, head_dim) = shape;
        std::tie(call.alpha, call.beta, call.delta, call.scale) = constants;
        call.num_template = num_template;
        call.template_token = template_token;
        if (dtype != "bfloat16" && dtype != "float16") throw py::type_error("attention: dtype must be bfloat16 or float16, got " + dtype);
        const py::gil_scoped_release release;
        cuda::forward(call, dtype == "bfloat16" ? cuda::Dtype::bf16 : cuda::Dtype::f16, head_dim, rows, reinterpret_cast<void*>(stream));
      },
      "Launches the fused forward on the current device and stream; rows: queries per block, 0 to choose.");
}

}  // namespace esat

#endif

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "crop/crop.h"

namespace py = pybind11;

namespace esat {
namespace {

using Matrix = std::array<int32_t, 5>;

CropParams region_of(uintptr_t frame, int64_t height, int64_t width, int64_t row_stride, int64_t pixel_stride, uintptr_t chroma,
                     int64_t chroma_stride, const Matrix& matrix, int64_t left, int64_t top, int64_t side, int64_t size) {
  return {reinterpret_cast<const uint8_t*>(frame),
          height,
          width,
          row_stride,
          pixel_stride,
          left,
          top,
          side,
          size,
          reinterpret_cast<const uint8_t*>(chroma),
          chroma_stride,
          {matrix[0], matrix[1], matrix[2], matrix[3], matrix[4]}};
}

}  // namespace

void bind_crop(py::module_& module) {
  module.attr("max_crop_size") = kMaxCropSize;
  module.def(
      "crop_image",
      [](uintptr_t frame, int64_t height, int64_t width, int64_t row_stride, int64_t pixel_stride, uintptr_t chroma, int64_t chroma_stride,
         const Matrix& matrix, int64_t left, int64_t top, int64_t side, int64_t size, uintptr_t out) {
        const CropParams params =
            region_of(frame, height, width, row_stride, pixel_stride, chroma, chroma_stride, matrix, left, top, side, size);
        const Features have = active_features();
        const py::gil_scoped_release release;
        crop_image(params, reinterpret_cast<uint8_t*>(out), have);
      },
      py::arg("frame"), py::arg("height"), py::arg("width"), py::arg("row_stride"), py::arg("pixel_stride"), py::arg("chroma"),
      py::arg("chroma_stride"), py::arg("matrix"), py::arg("left"), py::arg("top"), py::arg("side"), py::arg("size"), py::arg("out"),
      "A resized region of the frame: uint8 [size, size, 3].");
  module.def(
      "crop_patches",
      [](uintptr_t frame, int64_t height, int64_t width, int64_t row_stride, int64_t pixel_stride, uintptr_t chroma, int64_t chroma_stride,
         const Matrix& matrix, int64_t left, int64_t top, int64_t side, int64_t size, uintptr_t out, int64_t out_stride, bool bfloat16,
         bool reverse, std::array<float, 3> scale, std::array<float, 3> bias) {
        const CropParams params =
            region_of(frame, height, width, row_stride, pixel_stride, chroma, chroma_stride, matrix, left, top, side, size);
        const PatchParams patches = {reinterpret_cast<void*>(out), out_stride, bfloat16, reverse, {scale[0], scale[1], scale[2]},
                                     {bias[0], bias[1], bias[2]}};
        const Features have = active_features();
        const py::gil_scoped_release release;
        crop_patches(params, patches, have);
      },
      py::arg("frame"), py::arg("height"), py::arg("width"), py::arg("row_stride"), py::arg("pixel_stride"), py::arg("chroma"),
      py::arg("chroma_stride"), py::arg("matrix"), py::arg("left"), py::arg("top"), py::arg("side"), py::arg("size"), py::arg("out"),
      py::arg("out_stride"), py::arg("bfloat16"), py::arg("reverse"), py::arg("scale"), py::arg("bias"),
      "A resized region of the frame as rows of 16 x 16 patches, [(size / 16)^2, 768].");
}

}  // namespace esat

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "common/threads.h"
#include "crop/crop.h"
#include "crop/crop_rows.h"

namespace esat {
namespace {

using crop::Columns;
using crop::RowKernels;

constexpr int kWeightOne = 2048;
constexpr int kRowsPerThread = 64;  // fewer are not worth waking a thread

// One output coordinate: the lower of its two source positions, and the weights of both.
struct Sample {
  int64_t position;
  int weight0;
  int weight1;
};

// OpenCV's rule: positions in float, weights rounded half to even to 1/2048.
Sample sample(int64_t index, int64_t side, int64_t size) {
  const double scale = 1.0 / (static_cast<double>(size) / static_cast<double>(side));
  float fraction = static_cast<float>((static_cast<double>(index) + 0.5) * scale - 0.5);
  const float floor = std::floor(fraction);
  fraction -= floor;
  return {static_cast<int64_t>(floor), static_cast<int>(std::lrintf((1.0f - fraction) * kWeightOne)),
          static_cast<int>(std::lrintf(fraction * kWeightOne))};
}

// Frame positions that are read along one axis: [begin, end). The last column and row are black as soon as the region reaches them.
struct Range {
  int64_t begin;
  int64_t end;

  bool empty() const { return begin >= end; }
  bool contains(int64_t position) const { return position >= begin && position < end; }
};

Range readable(int64_t start, int64_t side, int64_t length) { return {std::max<int64_t>(start, 0), std::min(start + side, length - 1)}; }

void plan_columns(const CropParams& p, const Range& range, Columns& columns) {
  const int64_t pixel_stride = p.chroma == nullptr ? p.pixel_stride : 3;  // two planes are read through a row of three channels
  for (int64_t x = 0; x < p.size; ++x) {
    Sample s = sample(x, p.side, p.size);
    if (s.position < 0) {
      s = {0, kWeightOne, 0};
    } else if (s.position >= p.side - 1) {
      s = {p.side - 1, kWeightOne, 0};
    }
    int64_t at = p.left + s.position;
    const bool left_inside = range.contains(at);
    const bool right_inside = range.contains(at + 1);
    int left_weight = left_inside ? s.weight0 : 0;
    int right_weight = right_inside ? s.weight1 : 0;
    if (!left_inside) {  // never read before the row's start
      at = right_inside ? at + 1 : range.begin;
      left_weight = right_weight;
      right_weight = 0;
    }
    columns.offset[x] = static_cast<int32_t>(at * pixel_stride);
    columns.weight[2 * x] = static_cast<int16_t>(left_weight);
    columns.weight[2 * x + 1] = static_cast<int16_t>(right_weight);
  }
  columns.count = static_cast<int>((p.size + 3) / 4 * 4);
  for (int64_t x = p.size; x < columns.count; ++x) {
    columns.offset[x] = static_cast<int32_t>(range.begin * pixel_stride);
    columns.weight[2 * x] = columns.weight[2 * x + 1] = 0;
  }
}

uint8_t clamped(int32_t value) { return static_cast<uint8_t>(std::clamp(value >> 20, 0, 255)); }

// Columns [range.begin, range.end) of a row in two planes as red, green, blue: out[3 * column].
void to_rgb(const CropParams& p, int64_t row, const Range& range, uint8_t* out) {
  const uint8_t* luma = p.frame + row * p.row_stride;
  const uint8_t* chroma = p.chroma + row / 2 * p.chroma_stride;
  const YuvMatrix& m = p.matrix;
  for (int64_t x = range.begin; x < range.end; ++x) {
    const int32_t y = std::max(luma[x] - 16, 0) * m.luma + (1 << 19);
    const int32_t u = chroma[x / 2 * 2] - 128;
    const int32_t v = chroma[x / 2 * 2 + 1] - 128;
    out[3 * x] = clamped(y + v * m.v_red);
    out[3 * x + 1] = clamped(y + v * m.v_green + u * m.u_green);
    out[3 * x + 2] = clamped(y + u * m.u_blue);
  }
}

// Two horizontally resized source rows, kept from one output row to the next.
class RowPair {
 public:
  // rgb: rgb_bytes of memory.
  RowPair(const CropParams& params, const Range& rows, const Range& columns_range, const Columns& columns, const RowKernels& kernels,
          uint8_t* rgb)
      : params_(params), rows_(rows), columns_range_(columns_range), columns_(columns), kernels_(kernels), rgb_(rgb) {}

  // Of a row of two planes as three channels; kernels read 8 bytes from the last pixel on.
  static int64_t rgb_bytes(const CropParams& params, const Range& columns_range) {
    return params.chroma == nullptr ? 0 : 3 * columns_range.end + crop::kSlack;
  }

  // pixels: [3 * size] of output row y.
  void resize(int y, uint8_t* pixels) {
    const Sample s = sample(y, params_.side, params_.size);
    const int64_t upper = std::clamp<int64_t>(s.position, 0, params_.side - 1);
    const int64_t lower = std::clamp<int64_t>(s.position + 1, 0, params_.side - 1);
    if (upper == held_[1]) {
      std::swap(rows_data_[0], rows_data_[1]);
      std::swap(held_[0], held_[1]);
    }
    load(0, upper);
    load(1, lower);
    kernels_.vertical(rows_data_[0], rows_data_[1], s.weight0, s.weight1, static_cast<int>(3 * params_.size), pixels);
  }

 private:
  void load(int slot, int64_t row) {
    if (held_[slot] == row) return;
    held_[slot] = row;
    const int64_t at = params_.top + row;
    if (rows_.contains(at) && params_.chroma != nullptr) {
      to_rgb(params_, at, columns_range_, rgb_);
      kernels_.horizontal(rgb_, 3, columns_, rows_data_[slot]);
    } else if (rows_.contains(at)) {
      kernels_.horizontal(params_.frame + at * params_.row_stride, static_cast<int>(params_.pixel_stride), columns_, rows_data_[slot]);
    } else {
      std::memset(rows_data_[slot], 0, 3 * params_.size * sizeof(int16_t));
    }
  }

  const CropParams& params_;
  const Range& rows_;
  const Range& columns_range_;
  const Columns& columns_;
  const RowKernels& kernels_;
  uint8_t* rgb_;
  int16_t storage_[2][crop::kRowElements];
  int16_t* rows_data_[2] = {storage_[0], storage_[1]};
  int64_t held_[2] = {-1, -1};
};

const Table<RowKernels> kRows = {
#if defined(__x86_64__)
    {sets::avx2, &crop::rows_avx2},
#elif defined(__aarch64__)
    {sets::neon, &crop::rows_neon},
#endif
    {sets::portable, &crop::rows_portable},
};

// Calls emit(y, pixels) for every output row; pixels holds 3 * size values and room for a vector store behind them.
template <class Emit>
void for_each_row(const CropParams& p, const RowKernels& kernels, const Emit& emit) {
  const Range columns_range = readable(p.left, p.side, p.frame_width);
  const Range rows_range = readable(p.top, p.side, p.frame_height);
  const int size = static_cast<int>(p.size);
  // A readable pixel is at most the last but one of its row, in the last but one row: 8 bytes from it lie within the frame.
  if (columns_range.empty() || rows_range.empty()) {
    uint8_t black[crop::kRowElements] = {};
    for (int y = 0; y < size; ++y) emit(y, black);
    return;
  }
  Columns columns;
  plan_columns(p, columns_range, columns);
  const int threads = std::clamp(std::min(max_threads(), size / kRowsPerThread), 1, size);
  const int chunk = (size + threads - 1) / threads;
  // Out here, since an exception may not leave a parallel region.
  const int64_t rgb_bytes = RowPair::rgb_bytes(p, columns_range);
  std::vector<uint8_t> rgb(threads * rgb_bytes);
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int part = 0; part < threads; ++part) {
    RowPair rows(p, rows_range, columns_range, columns, kernels, rgb.data() + part * rgb_bytes);
    uint8_t pixels[crop::kRowElements];
    for (int y = part * chunk; y < std::min(size, (part + 1) * chunk); ++y) {
      rows.resize(y, pixels);
      emit(y, pixels);
    }
  }
}

}  // namespace

void crop_image(const CropParams& params, uint8_t* out, Features have) {
  const int64_t row_bytes = 3 * params.size;
  for_each_row(params, *best(kRows, have), [&](int y, const uint8_t* pixels) { std::memcpy(out + y * row_bytes, pixels, row_bytes); });
}

void crop_patches(const CropParams& params, const PatchParams& patches, Features have) {
  const RowKernels& kernels = *best(kRows, have);
  const auto to_patches = patches.bfloat16 ? kernels.to_bfloat16_patches : kernels.to_float_patches;
  for_each_row(params, kernels, [&](int y, const uint8_t* pixels) { to_patches(pixels, y, static_cast<int>(params.size), patches); });
}

std::vector<Choice> crop::choices(Features have) { return {choice("crop", kRows, have)}; }

}  // namespace esat

// Golden outputs of the public code on every set of kernels that this machine can run: attention forward and backward, the tokens that are
// eliminated, the box, and crops. They are read from the folder in ESAT_GOLDEN, which conformance/arrays.py writes.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "check.h"
#include "crop/crop.h"
#include "decode/decode.h"
#include "elimination/elimination.h"
#include "npy.h"
#include "sets.h"

namespace {

using namespace esat;
using testing::Array;
using testing::read_npy;

// The limits of conformance/checks.py.
constexpr double kAttention = 1e-5;  // of the largest value, or of 1
constexpr int kGreyLevels = 1;
constexpr double kBox = 1e-6;
constexpr int kSkipped = 77;

// Those sets that bring a kernel of their own for the operation.
std::vector<Set> sets_with(const std::string& operation, std::vector<Choice> (*choices)(Features)) {
  std::vector<Set> own;
  for (const Set& set : testing::sets()) {
    for (const Choice& row : choices(set.needs))
      if (row.operation == operation && row.chosen == std::string(set.name)) own.push_back(set);
  }
  CHECK(!own.empty());
  return own;
}

// q, k, v or others [batch, heads, tokens, dim], contiguous.
attention::Strides contiguous(const attention::Problem& p) { return {p.heads * p.tokens * p.head_dim, p.tokens * p.head_dim, p.head_dim}; }

attention::Problem problem(const Array<double>& numbers, std::int64_t batch, std::int64_t heads, std::int64_t tokens, std::int64_t dim) {
  const auto number = [&](std::size_t i) { return static_cast<float>(numbers.values.at(i)); };
  return {attention::Dtype::f32, batch, heads, tokens, dim, number(0), number(1), number(2), number(3)};
}

template <class T>
void check_close(const char* what, const Set& set, const std::vector<float>& got, const std::vector<T>& want, double tolerance) {
  double largest = 1, error = got.size() == want.size() ? 0 : INFINITY;
  for (const T x : want) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (std::size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double here = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    error = here <= error ? error : here;  // a NaN stays
  }
  std::printf("  %s on %s: %.1e\n", what, set.name, error / largest);
  CHECK(error <= tolerance * largest);
}

void check_attention(const std::string& folder) {
  const auto floats = [&](const char* name) { return read_npy<float>(folder + name + ".npy"); };
  const auto doubles = [&](const char* name) { return read_npy<double>(folder + name + ".npy"); };
  const Array<float> q = floats("q"), k = floats("k"), v = floats("v"), dout = floats("dout");
  const Array<double> numbers = doubles("numbers");
  const attention::Problem p = problem(numbers, q.size(0), q.size(1), q.size(2), q.size(3));
  const attention::Strides strides = contiguous(p);
  const auto num_template = static_cast<std::int64_t>(numbers.values.at(4)), row = static_cast<std::int64_t>(numbers.values.at(5));
  std::vector<float> out(q.values.size()), lse(p.batch * p.heads * p.tokens), scores(p.batch * (p.tokens - num_template));
  for (const Set& set : sets_with("attention float32", attention::choices)) {
    attention::forward({p, q.values.data(), k.values.data(), v.values.data(), strides, strides, strides, out.data(), strides, lse.data(),
                        scores.data(), num_template, row},
                       set.needs);
    check_close("out", set, out, doubles("out").values, kAttention);
    check_close("scores", set, scores, doubles("scores").values, kAttention);
  }
  std::vector<float> dq(out.size()), dk(out.size()), dv(out.size());
  for (const Set& set : sets_with("attention backward float32", attention::choices)) {
    attention::backward({p, dout.values.data(), q.values.data(), k.values.data(), v.values.data(), out.data(), strides, strides, strides,
                         strides, strides, lse.data(), dq.data(), dk.data(), dv.data(), strides},
                        set.needs);
    check_close("dq", set, dq, doubles("dq").values, kAttention);
    check_close("dk", set, dk, doubles("dk").values, kAttention);
    check_close("dv", set, dv, doubles("dv").values, kAttention);
  }
}

// The scores of each elimination's layer choose the tokens that the public code kept.
void check_elimination(const std::string& folder, const Set& set) {
  const Array<double> numbers = read_npy<double>(folder + "numbers.npy");
  const auto num_template = static_cast<std::int64_t>(numbers.values.at(4)), row = static_cast<std::int64_t>(numbers.values.at(5));
  std::vector<std::int64_t> left;  // positions of the search grid
  for (int stage = 0;; ++stage) {
    const std::string name = std::to_string(stage) + ".npy";
    if (!std::filesystem::exists(folder + "qkv_" + name)) {
      CHECK(stage > 0);
      return;
    }
    const Array<float> qkv = read_npy<float>(folder + "qkv_" + name);
    std::vector<std::int64_t> removed = read_npy<std::int64_t>(folder + "removed_" + name).values;
    const std::int64_t tokens = qkv.size(0), heads = qkv.size(2), dim = qkv.size(3), width = heads * dim;
    const attention::Problem p = problem(numbers, 1, heads, tokens, dim);
    const attention::Strides rows = {tokens * 3 * width, dim, 3 * width};
    const std::int64_t candidates = tokens - num_template, keep = candidates - static_cast<std::int64_t>(removed.size());
    std::vector<float> out(tokens * width), scores(candidates);
    const float* q = qkv.values.data();
    attention::forward({p,
                        q,
                        q + width,
                        q + 2 * width,
                        rows,
                        rows,
                        rows,
                        out.data(),
                        {tokens * width, dim, width},
                        nullptr,
                        scores.data(),
                        num_template,
                        row},
                       set.needs);
    std::vector<std::int64_t> kept(keep);
    select_tokens({scores.data(), candidates, 1, candidates, keep, kept.data()});

    if (stage == 0) {
      left.resize(candidates);
      std::iota(left.begin(), left.end(), 0);
    }
    CHECK_EQUAL(static_cast<std::int64_t>(left.size()), candidates);
    std::vector<std::int64_t> survivors, gone;
    for (const std::int64_t at : kept) survivors.push_back(left.at(at));
    std::set_difference(left.begin(), left.end(), survivors.begin(), survivors.end(), std::back_inserter(gone));
    std::sort(removed.begin(), removed.end());
    CHECK(gone == removed);
    std::printf("  elimination %d on %s: %d of %d tokens\n", stage, set.name, static_cast<int>(gone.size()), static_cast<int>(candidates));
    left = survivors;
  }
}

void check_box(const std::string& folder) {
  const auto map = [&](const char* name) { return read_npy<float>(folder + name + ".npy"); };
  const Array<float> score = map("score_map"), size = map("size_map"), offset = map("offset_map"), want = map("pred_box");
  std::vector<float> box(4);
  float raw, weighted;
  std::int64_t cell;
  decode_maps(
      {score.values.data(), size.values.data(), offset.values.data(), nullptr, 1, score.size(2), box.data(), &raw, &weighted, &cell});
  check_close("box", sets::portable, box, want.values, kBox);
}

void check_crops(const std::string& folder) {
  const Array<std::uint8_t> frame = read_npy<std::uint8_t>(folder + "frame.npy"), crops = read_npy<std::uint8_t>(folder + "crops.npy");
  const Array<std::int64_t> regions = read_npy<std::int64_t>(folder + "regions.npy");
  const std::int64_t size = crops.size(1), pixels = size * size * 3;
  std::vector<std::uint8_t> out(pixels);
  for (const Set& set : sets_with("crop", crop::choices)) {
    int error = 0;
    for (std::int64_t i = 0; i < regions.size(0); ++i) {
      const std::int64_t* region = &regions.values[3 * i];
      crop_image({frame.values.data(), frame.size(0), frame.size(1), frame.size(1) * 3, 3, region[0], region[1], region[2], size},
                 out.data(), set.needs);
      for (std::int64_t j = 0; j < pixels; ++j) error = std::max(error, std::abs(out[j] - crops.values[i * pixels + j]));
    }
    std::printf("  crops on %s: %d grey levels\n", set.name, error);
    CHECK(error <= kGreyLevels);
  }
}

}  // namespace

int main() {
  const char* golden = std::getenv("ESAT_GOLDEN");
  if (golden == nullptr || *golden == 0) {
    std::printf("skipped: ESAT_GOLDEN names no folder of golden arrays\n");
    return kSkipped;
  }
  int checked = 0;
  try {
    for (const auto& entry : std::filesystem::directory_iterator(golden)) {
      const std::string folder = entry.path().string() + "/";
      const auto holds = [&](const char* name) { return std::filesystem::exists(folder + name + ".npy"); };
      std::printf("%s\n", folder.c_str());
      if (holds("dout")) {
        check_attention(folder);
      } else if (holds("score_map")) {
        check_box(folder);
        for (const Set& set : sets_with("attention float32", attention::choices)) check_elimination(folder, set);
#ifndef ESAT_EMULATED_SETS  // none of them has a crop of its own
      } else if (holds("crops")) {
        check_crops(folder);
#endif
      } else {
        continue;
      }
      ++checked;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  CHECK(checked > 0);
  return testing::failures != 0;
}

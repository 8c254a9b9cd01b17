// Several threads of one process use the kernels at once, as several trackers do: the results are those of one. Built with the thread
// sanitizer, this finds shared state.

#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"
#include "crop/crop.h"
#include "decode/decode.h"
#include "elimination/elimination.h"

namespace {

struct Work {
  std::vector<uint8_t> frame = std::vector<uint8_t>(90 * 100 * 3);
  std::vector<uint8_t> crop = std::vector<uint8_t>(128 * 128 * 3);
  std::vector<float> patches = std::vector<float>(64 * 768);
  std::vector<float> scores = std::vector<float>(2 * 256);
  std::vector<int64_t> kept = std::vector<int64_t>(2 * 180);
  std::vector<float> tokens = std::vector<float>(2 * 320 * 64);
  std::vector<float> gathered = std::vector<float>(2 * 244 * 64);
  std::vector<float> scattered = std::vector<float>(2 * 256 * 64);
  std::vector<float> maps = std::vector<float>(4 * 256);
  std::vector<float> box = std::vector<float>(8 + 4);
  std::vector<int64_t> cells = std::vector<int64_t>(2);

  Work() {
    for (size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<uint8_t>(i * 2654435761U >> 13);
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 2654435761U % 1021);
    std::iota(tokens.begin(), tokens.end(), 0.0f);
    std::iota(maps.begin(), maps.end(), 0.0f);
  }

  void run() {
    const esat::Features have = esat::detected_features();
    const esat::CropParams region = {frame.data(), 90, 100, 300, 3, -10, 20, 80, 128};
    esat::crop_image(region, crop.data(), have);
    esat::crop_patches(region, {patches.data(), 768, false, true, {1, 2, 3}, {0, 1, 2}}, have);
    esat::select_tokens({scores.data(), 256, 2, 256, 180, kept.data()});
    const auto* bytes = reinterpret_cast<const uint8_t*>(tokens.data());
    esat::gather_tokens({bytes, 320 * 256, 256, 256, 2, 64, 256, kept.data(), 180, reinterpret_cast<uint8_t*>(gathered.data())});
    const auto* rows = reinterpret_cast<const uint8_t*>(gathered.data()) + 64 * 256;
    esat::scatter_tokens({rows, 244 * 256, 256, 256, 2, kept.data(), 180, 256, reinterpret_cast<uint8_t*>(scattered.data())});
    esat::decode_maps({scores.data(), maps.data(), maps.data(), nullptr, 2, 16, box.data(), box.data() + 8, box.data() + 10, cells.data()});
  }

  bool equals(const Work& other) const {
    return crop == other.crop && patches == other.patches && kept == other.kept && gathered == other.gathered &&
           scattered == other.scattered && box == other.box && cells == other.cells;
  }
};

}  // namespace

int main() {
  Work alone;
  alone.run();
  std::vector<Work> together(4);
  std::vector<std::thread> threads;
  for (Work& work : together) {
    threads.emplace_back([&work] {
      for (int round = 0; round < 20; ++round) work.run();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Work& work : together) CHECK(work.equals(alone));
  return esat::testing::failures != 0;
}

#include <cmath>
#include <limits>

#include "decode/decode.h"

namespace esat {
namespace {

struct Best {
  int64_t index;
  float weighted;
};

Best first_maximum(const float* score, const float* window, int64_t cells) {
  Best best = {0, -std::numeric_limits<float>::infinity()};
  for (int64_t i = 0; i < cells; ++i) {
    const float weighted = window == nullptr ? score[i] : score[i] * window[i];
    if (std::isnan(weighted)) return {0, weighted};
    if (weighted > best.weighted) best = {i, weighted};
  }
  return best;
}

}  // namespace

void decode_maps(const DecodeParams& p) {
  const int64_t cells = p.side * p.side;
  const float side = static_cast<float>(p.side);
  for (int64_t b = 0; b < p.batch; ++b) {
    const float* score = p.score + b * cells;
    const float* size = p.size + b * 2 * cells;
    const float* offset = p.offset + b * 2 * cells;
    const Best best = first_maximum(score, p.window, cells);
    const int64_t at = best.index;
    float* box = p.box + 4 * b;
    box[0] = (static_cast<float>(at % p.side) + offset[at]) / side;
    box[1] = (static_cast<float>(at / p.side) + offset[cells + at]) / side;
    box[2] = size[at];
    box[3] = size[cells + at];
    p.raw_score[b] = score[at];
    p.weighted_score[b] = best.weighted;
    p.index[b] = at;
  }
}

}  // namespace esat

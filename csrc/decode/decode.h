// From the head's maps to a box: the first maximum of score * window, and the offset and size there.
#pragma once

#include <cstdint>

namespace esat {

struct DecodeParams {
  const float* score;   // [batch, side, side], contiguous
  const float* size;    // [batch, 2, side, side], contiguous: w, h over the search region's side
  const float* offset;  // [batch, 2, side, side], contiguous: x, y in cells
  const float* window;  // [side, side] or null
  int64_t batch;
  int64_t side;
  float* box;             // [batch, 4]: cx, cy, w, h over the region's side
  float* raw_score;       // [batch]: score at the chosen cell
  float* weighted_score;  // [batch]: score * window there
  int64_t* index;         // [batch]: the cell, row by row
};

// Where a weighted score is NaN, the weighted score is NaN and the cell is the first of the map.
void decode_maps(const DecodeParams& params);

}  // namespace esat

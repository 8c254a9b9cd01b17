// Candidate elimination: choose a fixed number of tokens, gather them into compact rows, scatter them back.
#pragma once

#include <cstdint>

namespace esat {

// Positions of the `keep` largest of n scores in each row, ascending; equal scores: the lower position wins; NaN counts as the largest.
struct SelectParams {
  const float* scores;  // [batch, n], a row's elements adjacent
  int64_t row_stride;   // elements
  int64_t batch;
  int64_t n;
  int64_t keep;   // 1 to n
  int64_t* kept;  // [batch, keep]
};

void select_tokens(const SelectParams& params);

// Rows of bytes: the dtype does not matter. `kept` lies in [0, num_search) for a gather and in [0, length) for a scatter; anything else
// is an std::out_of_range before a byte is written.
struct GatherParams {
  const uint8_t* tokens;  // [batch, num_template + num_search, row_bytes]
  int64_t batch_stride;   // bytes
  int64_t token_stride;   // bytes
  int64_t row_bytes;
  int64_t batch;
  int64_t num_template;
  int64_t num_search;
  const int64_t* kept;  // [batch, num_kept]
  int64_t num_kept;
  uint8_t* out;  // [batch, num_template + num_kept, row_bytes], contiguous
};

void gather_tokens(const GatherParams& params);

struct ScatterParams {
  const uint8_t* tokens;  // [batch, num_kept, row_bytes]
  int64_t batch_stride;   // bytes
  int64_t token_stride;   // bytes
  int64_t row_bytes;
  int64_t batch;
  const int64_t* kept;  // [batch, num_kept]
  int64_t num_kept;
  int64_t length;
  uint8_t* out;  // [batch, length, row_bytes], contiguous; rows that no position names become zero bytes
};

void scatter_tokens(const ScatterParams& params);

}  // namespace esat

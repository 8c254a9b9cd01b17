// One head's keys and values as float32. Include a simd_*.h first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "attention/convert.h"
#include "attention/product.h"

namespace esat::attention {
namespace {

struct Head {
  const float *keys, *values;             // floats: zeros up to a multiple of kRowsStep
  std::int64_t key_stride, value_stride;  // of tokens
  const float* key_norms;                 // |k_j|^2, zeros up to a multiple of 64
  const float* least_norms;               // of each group of eight keys, for lanes that vote
  float longest_key;
  const float* centre;  // the mean key [dim], or null
  float centre_norm2;
  float spread;  // the largest |k_j - centre|

  struct Source {
    const void* start;
    Strides strides;
  };
  struct Room {  // for copies and norms
    float *keys, *values, *key_norms, *least_norms, *centre;
  };
};

[[gnu::noinline]] inline Head prepare_head(const Problem& problem, Head::Source key, Head::Source value, std::int64_t batch,
                                           std::int64_t head, Head::Room room) {
  const std::int64_t n = problem.tokens, dim = problem.head_dim;
  const std::int64_t key_start = batch * key.strides.batch + head * key.strides.head;
  const std::int64_t value_start = batch * value.strides.batch + head * value.strides.head;
  Head result{};
  // Packed even where they are floats already: rows of the QKV product lie a multiple of 1024 bytes apart, and a tile of them shares
  // a quarter of the L1's sets.
  for (std::int64_t j = 0; j < n; ++j) {
    if (j + kRowsAhead < n) {
      prefetch_row(key.start, problem.dtype, key_start + (j + kRowsAhead) * key.strides.token, dim);
      prefetch_row(value.start, problem.dtype, value_start + (j + kRowsAhead) * value.strides.token, dim);
    }
    read_floats(key.start, problem.dtype, key_start + j * key.strides.token, dim, room.keys + j * dim);
    read_floats(value.start, problem.dtype, value_start + j * value.strides.token, dim, room.values + j * dim);
  }
  std::fill(room.keys + n * dim, room.keys + round_up(n, kRowsStep) * dim, 0.0F);
  std::fill(room.values + n * dim, room.values + round_up(n, kRowsStep) * dim, 0.0F);
  result.keys = room.keys;
  result.values = room.values;
  result.key_stride = result.value_stride = dim;
  float longest = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    const float* line = result.keys + j * result.key_stride;
    room.key_norms[j] = dot(line, line, dim);
    longest = room.key_norms[j] > longest ? room.key_norms[j] : longest;
  }
  for (std::int64_t j = n; j < round_up(n, 64); ++j) room.key_norms[j] = 0;
  result.key_norms = room.key_norms;
  result.longest_key = std::sqrt(longest);
  return result;
}

// The mean key, into `centre`, and how far the others lie from it. Of a trained model's keys the mean is often the larger part.
[[gnu::noinline]] inline void find_centre(const Problem& problem, float* centre, Head& head) {
  const std::int64_t n = problem.tokens, dim = problem.head_dim;
  std::fill(centre, centre + dim, 0.0F);
  for (std::int64_t j = 0; j < n; ++j) {
    const float* line = head.keys + j * head.key_stride;
    for (std::int64_t d = 0; d < dim; ++d) centre[d] += line[d];
  }
  for (std::int64_t d = 0; d < dim; ++d) centre[d] /= static_cast<float>(n);
  head.centre = centre;
  head.centre_norm2 = dot(centre, centre, dim);
  float widest = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    const float squares = head.key_norms[j] + head.centre_norm2;
    // A little more than the difference, of which rounding may leave nothing.
    const float distance = squares * (1 + 0x1p-19F) - 2 * dot(head.keys + j * head.key_stride, centre, dim);
    widest = distance > widest ? distance : widest;
  }
  head.spread = std::sqrt(widest);
}

}  // namespace
}  // namespace esat::attention

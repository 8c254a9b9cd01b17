// One head's keys and values as float32. Include a simd_*.h first.
#pragma once

#include <cmath>
#include <cstdint>

#include "attention/convert.h"
#include "attention/product.h"

namespace esat::attention {
namespace {

struct Head {
  const float *keys, *values;
  std::int64_t key_stride, value_stride;  // of tokens
  const float* key_norms;                 // |k_j|^2, zeros up to a multiple of 64
  const float* least_norms;               // of each group of eight keys, for lanes that vote
  float longest_key;

  struct Source {
    const void* start;
    Strides strides;
  };
  struct Room {  // for copies (unused for float32) and norms
    float *keys, *values, *key_norms, *least_norms;
  };
};

inline Head prepare_head(const Problem& problem, Head::Source key, Head::Source value, std::int64_t batch, std::int64_t head,
                         Head::Room room) {
  const std::int64_t n = problem.tokens, dim = problem.head_dim;
  const std::int64_t key_start = batch * key.strides.batch + head * key.strides.head;
  const std::int64_t value_start = batch * value.strides.batch + head * value.strides.head;
  Head result{};
  if (problem.dtype == Dtype::f32) {
    result.keys = static_cast<const float*>(key.start) + key_start;
    result.values = static_cast<const float*>(value.start) + value_start;
    result.key_stride = key.strides.token;
    result.value_stride = value.strides.token;
  } else {
    for (std::int64_t j = 0; j < n; ++j) {
      read_floats(key.start, problem.dtype, key_start + j * key.strides.token, dim, room.keys + j * dim);
      read_floats(value.start, problem.dtype, value_start + j * value.strides.token, dim, room.values + j * dim);
    }
    result.keys = room.keys;
    result.values = room.values;
    result.key_stride = result.value_stride = dim;
  }
  float longest = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    if (problem.dtype == Dtype::f32 && j + kRowsAhead < n) {
      prefetch_row(key.start, problem.dtype, key_start + (j + kRowsAhead) * key.strides.token, dim);
      prefetch_row(value.start, problem.dtype, value_start + (j + kRowsAhead) * value.strides.token, dim);
    }
    const float* line = result.keys + j * result.key_stride;
    room.key_norms[j] = dot(line, line, dim);
    longest = room.key_norms[j] > longest ? room.key_norms[j] : longest;
  }
  for (std::int64_t j = n; j < round_up(n, 64); ++j) room.key_norms[j] = 0;
  result.key_norms = room.key_norms;
  result.longest_key = std::sqrt(longest);
  return result;
}

}  // namespace
}  // namespace esat::attention

#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "attention/attention.h"
#include "attention/kernels.h"
#include "common/threads.h"

namespace esat::attention {
namespace {

constexpr std::size_t kAlignment = 64;

// Memory that grows and stays, so that a tracking loop allocates nothing after
// its first frame.
class Scratch {
 public:
  char* at_least(std::size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, bytes)));
      if (!memory_) throw std::bad_alloc();
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  std::size_t size_ = 0;
};

// The tiles' kernels approximate 2^z to 1.7e-3, and the forward's bound leaves no room for an attraction beyond 2^64.
[[maybe_unused]] bool fits_tiles(const Problem& problem) { return problem.dtype == Dtype::bf16 && problem.alpha <= 4; }
[[maybe_unused]] bool fits_pairs(const Problem& problem) { return problem.dtype == Dtype::bf16 && problem.head_dim % 2 == 0; }

const Table<ForwardKernel, Problem> kForward = {
#if defined(__x86_64__)
    {sets::amx, &forward_amx, fits_tiles}, {sets::avx512bf16, &forward_avx512bf16, fits_pairs},
    {sets::avx512, &forward_avx512},       {sets::avx2, &forward_avx2},
#elif defined(__aarch64__)
    {sets::neon, &forward_neon},
#endif
    {sets::portable, &forward_portable},
};

const Table<BackwardKernel, Problem> kBackward = {
#if defined(__x86_64__)
    {sets::amx, &backward_amx, fits_tiles},
    {sets::avx512, &backward_avx512},
    {sets::avx2, &backward_avx2},
#elif defined(__aarch64__)
    {sets::neon, &backward_neon},
#endif
    {sets::portable, &backward_portable},
};

// Scores in a fixed order of heads: the same bits with any number of threads.
void mean_over_heads(const Forward& call, const float* probabilities) {
  const std::int64_t columns = call.problem.tokens - call.num_template, heads = call.problem.heads;
  const float inverse = 1.0F / static_cast<float>(heads);
  for (std::int64_t b = 0; b < call.problem.batch; ++b) {
    float* target = call.scores + b * columns;
    const float* source = probabilities + b * heads * columns;
    for (std::int64_t j = 0; j < columns; ++j) {
      float sum = 0;
      for (std::int64_t h = 0; h < heads; ++h) sum += source[h * columns + j];
      target[j] = sum * inverse;
    }
  }
}

}  // namespace

Counters forward(const Forward& call, Features have) {
  const Problem& problem = call.problem;
  const ForwardKernel& kernel = *best(kForward, have, problem);
  const std::int64_t per_head = (problem.tokens + kernel.rows_per_item - 1) / kernel.rows_per_item;
  const std::int64_t items = problem.batch * problem.heads * per_head;
  const std::int64_t threads = items < max_threads() ? items : max_threads();
  const std::size_t per_thread = (kernel.workspace_bytes(problem) + kAlignment - 1) / kAlignment * kAlignment;
  const std::int64_t columns = call.scores == nullptr ? 0 : problem.tokens - call.num_template;
  const std::size_t probability_bytes = static_cast<std::size_t>(problem.batch * problem.heads * columns) * sizeof(float);

  static thread_local Scratch scratch;
  char* memory = scratch.at_least(per_thread * static_cast<std::size_t>(threads) + probability_bytes);
  float* probabilities = columns == 0 ? nullptr : reinterpret_cast<float*>(memory + per_thread * static_cast<std::size_t>(threads));

  std::int64_t skipped = 0, blocks = 0, redone = 0;
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static) reduction(+ : skipped, blocks, redone) if (threads > 1)
  for (std::int64_t t = 0; t < threads; ++t) {
    const Counters part =
        kernel.run(call, probabilities, items * t / threads, items * (t + 1) / threads, memory + per_thread * static_cast<std::size_t>(t));
    skipped += part.skipped_blocks;
    blocks += part.blocks;
    redone += part.redone_rows;
  }
  if (columns != 0) mean_over_heads(call, probabilities);
  return Counters{skipped, blocks, redone};
}

void backward(const Backward& call, Features have) {
  const Problem& problem = call.problem;
  const BackwardKernel& kernel = *best(kBackward, have, problem);
  const std::int64_t heads = problem.batch * problem.heads;
  const std::int64_t threads = heads < max_threads() ? heads : max_threads();
  const std::size_t per_thread = (kernel.workspace_bytes(problem) + kAlignment - 1) / kAlignment * kAlignment;
  static thread_local Scratch scratch;
  char* memory = scratch.at_least(per_thread * static_cast<std::size_t>(threads));
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static) if (threads > 1)
  for (std::int64_t t = 0; t < threads; ++t) {
    kernel.run(call, heads * t / threads, heads * (t + 1) / threads, memory + per_thread * static_cast<std::size_t>(t));
  }
}

std::vector<Choice> choices(Features have) {
  std::vector<Choice> rows;
  constexpr std::pair<const char*, Dtype> kDtypes[] = {{"float32", Dtype::f32}, {"bfloat16", Dtype::bf16}, {"float16", Dtype::f16}};
  for (const auto& [name, dtype] : kDtypes) {
    const Problem usual{dtype, 1, 1, 1, 64, 0.1F, 0.1F, 0.125F, 0.125F};
    rows.push_back(choice(std::string("attention ") + name, kForward, have, usual));
    rows.push_back(choice(std::string("attention backward ") + name, kBackward, have, usual));
  }
  return rows;
}

}  // namespace esat::attention

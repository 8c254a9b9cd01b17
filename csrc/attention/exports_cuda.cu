// The C interface of the CUDA library (libesat_cuda.so): addresses, sizes and strides in the structures of the operations' headers, which
// esat_kernels mirrors in ctypes. It knows neither Python nor PyTorch, so one build serves every version of both.

#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>

#include "attention/attention_cuda.h"

#define ESAT_EXPORT extern "C" __attribute__((visibility("default")))
#define ESAT_TEXT_OF(token) #token
#define ESAT_TEXT(token) ESAT_TEXT_OF(token)

namespace {

enum Status { kDone = 0, kInvalid = 1, kFailed = 2 };

thread_local std::string message;

template <class Function>
int guarded(const Function& function) {
  try {
    function();
    return kDone;
  } catch (const std::invalid_argument& error) {
    message = error.what();
    return kInvalid;
  } catch (const std::exception& error) {
    message = error.what();
    return kFailed;
  }
}

}  // namespace

// What csrc/build_cuda.py built this from, and for which architectures.
ESAT_EXPORT const char* esat_cuda_about() {
  return "nvcc " ESAT_TEXT(__CUDACC_VER_MAJOR__) "." ESAT_TEXT(__CUDACC_VER_MINOR__) ", " ESAT_TEXT(
      ESAT_ARCHITECTURES) ", sources " ESAT_TEXT(ESAT_SOURCES);
}

// Why the last call of this thread that was not done failed.
ESAT_EXPORT const char* esat_cuda_error() { return message.c_str(); }

// sizeof of the structure that `esat_fda_forward` takes: a caller whose own differs was written for another library.
ESAT_EXPORT std::size_t esat_fda_forward_size() { return sizeof(esat::cuda::Forward); }

// `esat::cuda::forward`. A Status; `esat_cuda_error` says more.
ESAT_EXPORT int esat_fda_forward(const esat::cuda::Forward* call, int head_dim, int rows, void* stream) {
  return guarded([&] { esat::cuda::forward(*call, head_dim, rows, stream); });
}

// `esat::cuda::forward_sm90`, likewise.
ESAT_EXPORT int esat_fda_forward_sm90(const esat::cuda::Forward* call, int head_dim, int rows, void* stream) {
  return guarded([&] { esat::cuda::forward_sm90(*call, head_dim, rows, stream); });
}

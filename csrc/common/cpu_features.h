// Which instruction sets this machine can run, and which one the kernels use.
#pragma once

namespace esat {

// Each level contains the ones before it.
enum class Isa {
  portable,    // plain C++, any processor
  avx2,        // AVX2, FMA, F16C
  avx512,      // AVX-512 F, BW, DQ, VL
  avx512bf16,  // and BF16, VNNI
  amx,         // and AMX tiles with bf16 and int8; the operating system has granted their use
  // 64-bit ARM, each after portable:
  neon,      // every such processor
  neondot,   // and SDOT
  neonbf16,  // and BF16, I8MM
};

const char* isa_name(Isa isa);

// The highest level that the processor and the operating system support. Asks the system once for the AMX tiles.
Isa detected_isa();

// Whether `isa` is the detected level or contained in it.
bool supported(Isa isa);

// Whether there are products of int8 with the vectors of `isa`: AVX-VNNI for avx2, AVX512-VNNI for avx512, always from avx512bf16 on.
bool has_int8_products(Isa isa);

// The level that kernels use: the detected one, or the one named by the environment variable ESAT_CPU. Reads the variable on every call,
// so call it with Python's lock held, before threads start. std::invalid_argument if the name is unknown or beyond this machine.
Isa active_isa();

}  // namespace esat

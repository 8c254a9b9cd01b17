// Which instructions this machine can run, and which of them the kernels use. A kernel needs some bits; sets are those that have a name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace esat {

using Features = std::uint32_t;

// Bits are independent of each other: a processor can have AVX-VNNI beside AVX-512.
constexpr Features kAvx2 = 1U << 0;  // AVX2, FMA, F16C
constexpr Features kAvxVnni = 1U << 1;
constexpr Features kAvx512 = 1U << 2;  // F, BW, DQ, VL
constexpr Features kAvx512Vnni = 1U << 3;
constexpr Features kAvx512Bf16 = 1U << 4;
constexpr Features kAmx = 1U << 5;  // tiles with bf16 and int8; the operating system has granted their use
constexpr Features kNeon = 1U << 8;
constexpr Features kDotprod = 1U << 9;  // SDOT, UDOT
constexpr Features kI8mm = 1U << 10;    // SMMLA, USMMLA, USDOT
constexpr Features kBf16 = 1U << 11;    // BFDOT, BFMMLA

// A named set: what sources with its name as their suffix are compiled for (CMakeLists.txt), and what ESAT_CPU can ask for.
struct Set {
  const char* name;
  Features needs;

  constexpr bool runs_on(Features have) const { return (needs & ~have) == 0; }
};

namespace sets {
inline constexpr Set portable{"portable", 0};
inline constexpr Set avx2{"avx2", kAvx2};
inline constexpr Set avx2vnni{"avx2vnni", kAvx2 | kAvxVnni};
inline constexpr Set avx512{"avx512", kAvx2 | kAvx512};
inline constexpr Set avx512vnni{"avx512vnni", avx512.needs | kAvx512Vnni};
inline constexpr Set avx512bf16{"avx512bf16", avx512vnni.needs | kAvx512Bf16};
inline constexpr Set amx{"amx", avx512bf16.needs | kAmx};
inline constexpr Set neon{"neon", kNeon};
inline constexpr Set neondot{"neondot", kNeon | kDotprod};
inline constexpr Set neoni8mm{"neoni8mm", neondot.needs | kI8mm};
inline constexpr Set neonbf16{"neonbf16", neoni8mm.needs | kBf16};
}  // namespace sets

// What the processor and the operating system support. Asks the system once for the AMX tiles.
Features detected_features();

// Named sets that run with these features, the least first.
std::vector<Set> sets_within(Features have);

// What kernels use: what was detected, or no more than the set that the environment variable ESAT_CPU names. Reads the variable on every
// call, so call it with Python's lock held, before threads start. std::invalid_argument if the machine has no set of that name.
Features active_features();

}  // namespace esat

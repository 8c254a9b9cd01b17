#include "common/cpu_features.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace esat {
namespace {

constexpr Set kSets[] = {sets::portable, sets::avx2, sets::avx2vnni, sets::avx512,   sets::avx512vnni, sets::avx512bf16,
                         sets::amx,      sets::neon, sets::neondot,  sets::neoni8mm, sets::neonbf16};

bool has(unsigned long bits, int bit) { return (bits >> bit & 1U) != 0; }

#if defined(__x86_64__)

// What cpuid reports is what the processor has; XCR0 is what the operating system saves on a context switch. Both are needed.
constexpr unsigned long long kAvxState = 0x6;       // XMM, YMM
constexpr unsigned long long kAvx512State = 0xe6;   // and opmask, upper ZMM
constexpr unsigned long long kTileState = 0x600e6;  // and tile configuration, tile data

unsigned long long read_xcr0() {
  unsigned low = 0;
  unsigned high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

bool request_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const bool fma = has(c, 12), osxsave = has(c, 27), avx = has(c, 28), f16c = has(c, 29);
  if (!osxsave || !avx) return 0;
  const unsigned long long state = read_xcr0();
  if ((state & kAvxState) != kAvxState || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  unsigned more = 0, unused = 0;  // eax of subleaf 1
  if (!__get_cpuid_count(7, 1, &more, &unused, &unused, &unused)) more = 0;
  if (!has(b, 5) || !fma || !f16c) return 0;
  Features found = kAvx2;
  if (has(more, 4)) found |= kAvxVnni;
  if (!has(b, 16) || !has(b, 17) || !has(b, 30) || !has(b, 31) || (state & kAvx512State) != kAvx512State) return found;  // F, DQ, BW, VL
  found |= kAvx512;
  if (has(c, 11)) found |= kAvx512Vnni;
  if (has(more, 5)) found |= kAvx512Bf16;
  if (has(d, 24) && has(d, 22) && has(d, 25) && (state & kTileState) == kTileState && request_tiles()) found |= kAmx;  // TILE, BF16, INT8
  return found;
}

#elif defined(__aarch64__) && defined(__linux__)

Features detect() {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  Features found = kNeon;                 // of every aarch64
  if (has(first, 20)) found |= kDotprod;  // HWCAP_ASIMDDP
  if (has(second, 13)) found |= kI8mm;    // HWCAP2_I8MM
  if (has(second, 14)) found |= kBf16;    // HWCAP2_BF16
  return found;
}

#elif defined(__aarch64__) && defined(__APPLE__)

bool reports(const char* name) {
  int value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

Features detect() {
  Features found = kNeon;
  if (reports("hw.optional.arm.FEAT_DotProd")) found |= kDotprod;
  if (reports("hw.optional.arm.FEAT_I8MM")) found |= kI8mm;
  if (reports("hw.optional.arm.FEAT_BF16")) found |= kBf16;
  return found;
}

#elif defined(__aarch64__)

Features detect() { return kNeon; }

#else

Features detect() { return 0; }

#endif

}  // namespace

Features detected_features() {
  static const Features features = detect();
  return features;
}

std::vector<Set> sets_within(Features have) {
  std::vector<Set> found;
  for (const Set& set : kSets) {
    if (set.runs_on(have)) found.push_back(set);
  }
  return found;
}

Features active_features() {
  const char* named = std::getenv("ESAT_CPU");
  const Features detected = detected_features();
  if (named == nullptr || *named == '\0') return detected;
  std::string names;
  for (const Set& set : sets_within(detected)) {
    if (named == std::string(set.name)) return set.needs;
    names += (names.empty() ? "" : ", ") + std::string(set.name);
  }
  throw std::invalid_argument("ESAT_CPU must be a set of this machine (" + names + "), got '" + named + "'");
}

}  // namespace esat

#include "common/cpu_features.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace esat {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512bf16", "amx", "neon", "neondot", "neonbf16"};
constexpr int kLevels = 8;

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

bool has(unsigned bits, int bit) { return (bits >> bit & 1U) != 0; }

bool request_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::portable;
  const bool fma = has(c, 12), osxsave = has(c, 27), avx = has(c, 28), f16c = has(c, 29);
  if (!osxsave || !avx) return Isa::portable;
  const unsigned long long state = read_xcr0();
  if ((state & kAvxState) != kAvxState) return Isa::portable;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::portable;
  const unsigned leaf7_b = b;
  const unsigned leaf7_c = c;
  const unsigned leaf7_d = d;
  if (!has(leaf7_b, 5) || !fma || !f16c) return Isa::portable;
  const bool avx512 = has(leaf7_b, 16) && has(leaf7_b, 17) && has(leaf7_b, 30) && has(leaf7_b, 31);  // F, DQ, BW, VL
  if (!avx512 || (state & kAvx512State) != kAvx512State) return Isa::avx2;
  if (!has(leaf7_c, 11) || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has(a, 5)) return Isa::avx512;  // VNNI, BF16
  const bool tiles = has(leaf7_d, 24) && has(leaf7_d, 22) && has(leaf7_d, 25);                          // AMX-TILE, AMX-BF16, AMX-INT8
  if (!tiles || (state & kTileState) != kTileState || !request_tiles()) return Isa::avx512bf16;
  return Isa::amx;
}

bool leaf7_bit(unsigned subleaf, bool in_c, int bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, subleaf, &a, &b, &c, &d) != 0 && has(in_c ? c : a, bit);
}

bool detect_int8(Isa isa) {
  if (isa == Isa::avx2) return leaf7_bit(1, false, 4);    // AVX-VNNI
  if (isa == Isa::avx512) return leaf7_bit(0, true, 11);  // AVX512-VNNI
  return isa != Isa::portable;
}

#elif defined(__aarch64__)

Isa detect() {
#if defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  const bool dot = has("hw.optional.arm.FEAT_DotProd");
  const bool bf16 = has("hw.optional.arm.FEAT_BF16") && has("hw.optional.arm.FEAT_I8MM");
#else
  // Bits of the kernel's interface (asm/hwcap.h), which older headers do not name.
  constexpr unsigned long kDot = 1UL << 20, kI8mm = 1UL << 13, kBf16 = 1UL << 14;
  const bool dot = (getauxval(AT_HWCAP) & kDot) != 0;
  const bool bf16 = (getauxval(AT_HWCAP2) & (kI8mm | kBf16)) == (kI8mm | kBf16);
#endif
  return !dot ? Isa::neon : !bf16 ? Isa::neondot : Isa::neonbf16;
}
bool detect_int8(Isa isa) { return isa >= Isa::neondot; }

#else

Isa detect() { return Isa::portable; }
bool detect_int8(Isa) { return false; }

#endif

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

Isa detected_isa() {
  static const Isa isa = detect();
  return isa;
}

bool supported(Isa isa) {
  return isa == Isa::portable || (isa <= detected_isa() && (isa < Isa::neon) == (detected_isa() < Isa::neon));
}

bool has_int8_products(Isa isa) { return supported(isa) && detect_int8(isa); }

Isa active_isa() {
  const char* forced = std::getenv("ESAT_CPU");
  const Isa detected = detected_isa();
  if (forced == nullptr || *forced == '\0') return detected;
  const std::string name = forced;
  for (int level = 0; level < kLevels; ++level) {
    if (name != kNames[level]) continue;
    if (!supported(static_cast<Isa>(level))) {
      throw std::invalid_argument("ESAT_CPU=" + name + ": this machine has no more than " + isa_name(detected));
    }
    return static_cast<Isa>(level);
  }
  throw std::invalid_argument("ESAT_CPU must be portable, avx2, avx512, avx512bf16 or amx, got '" + name + "'");
}

}  // namespace esat

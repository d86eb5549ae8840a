#include "cpu/isas.h"

#include <cstdlib>

#include "core/check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define LLMCORE_FOR_EACH_ISA(X)    \
  LLMCORE_IF_BASELINE(X(baseline)) \
  LLMCORE_IF_AVX2(X(avx2))         \
  LLMCORE_IF_AVXVNNI(X(avxvnni))   \
  LLMCORE_IF_AVX512(X(avx512)) LLMCORE_IF_AVX512BF16(X(avx512bf16)) LLMCORE_IF_AMX(X(amx))

#if defined(LLMCORE_WITH_BASELINE)
#define LLMCORE_IF_BASELINE(x) x
#else
#define LLMCORE_IF_BASELINE(x)
#endif
#if defined(LLMCORE_WITH_AVX2)
#define LLMCORE_IF_AVX2(x) x
#else
#define LLMCORE_IF_AVX2(x)
#endif
#if defined(LLMCORE_WITH_AVXVNNI)
#define LLMCORE_IF_AVXVNNI(x) x
#else
#define LLMCORE_IF_AVXVNNI(x)
#endif
#if defined(LLMCORE_WITH_AVX512)
#define LLMCORE_IF_AVX512(x) x
#else
#define LLMCORE_IF_AVX512(x)
#endif
#if defined(LLMCORE_WITH_AVX512BF16)
#define LLMCORE_IF_AVX512BF16(x) x
#else
#define LLMCORE_IF_AVX512BF16(x)
#endif
#if defined(LLMCORE_WITH_AMX)
#define LLMCORE_IF_AMX(x) x
#else
#define LLMCORE_IF_AMX(x)
#endif

namespace llmcore {

#define X(isa)                   \
  namespace isa {                \
  void fill_table(KernelTable&); \
  }
LLMCORE_FOR_EACH_ISA(X)
#undef X

namespace {

[[maybe_unused]] bool supports_baseline() { return true; }

#if defined(__x86_64__)
// Every flag in cmake/isas.cmake has its own check; __builtin_cpu_supports covers the state saved by the OS.
[[maybe_unused]] bool supports_avx2() {
  unsigned a, b, c, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
}
[[maybe_unused]] bool supports_avxvnni() {
  unsigned a, b, c, d;
  return supports_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}
[[maybe_unused]] bool supports_avx512() {
  return supports_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
[[maybe_unused]] bool supports_avx512bf16() {
  return supports_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
[[maybe_unused]] bool supports_amx() {
  unsigned a, b, c, d;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kOsXsave = 1u << 27;
  if (!supports_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8)) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  uint32_t lo, hi;
  asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  if ((lo & (3u << 17)) != (3u << 17)) return false;  // tile configuration and tile data
  // Linux grants the large tile state on request, to the process and all threads it starts later.
  constexpr int kArchReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
}
#else
[[maybe_unused]] bool supports_avx2() { return false; }
[[maybe_unused]] bool supports_avxvnni() { return false; }
[[maybe_unused]] bool supports_avx512() { return false; }
[[maybe_unused]] bool supports_avx512bf16() { return false; }
[[maybe_unused]] bool supports_amx() { return false; }
#endif

struct Isa {
  const char* name;
  bool (*supported)();
  void (*fill)(KernelTable&);
};

const std::vector<Isa>& isas() {
  static const std::vector<Isa> all = {
#define X(isa) {#isa, supports_##isa, isa::fill_table},
      LLMCORE_FOR_EACH_ISA(X)
#undef X
  };
  return all;
}

KernelTable make_cpu_table() {
  const char* forced = std::getenv("LLMCORE_CPU_ISA");
  const Isa* chosen = nullptr;
  std::string names;
  for (const Isa& isa : isas()) {
    if (!isa.supported()) continue;
    names += (names.empty() ? "" : ", ") + std::string(isa.name);
    if (!forced || !*forced || std::string(forced) == isa.name) chosen = &isa;
  }
  if (!chosen) fail("LLMCORE_CPU_ISA", "one of " + names, forced ? forced : "none");
  KernelTable table{};
  chosen->fill(table);
  table.name = chosen->name;
  return table;
}

}  // namespace

const KernelTable& cpu_kernels() {
  static const KernelTable table = make_cpu_table();
  return table;
}

std::vector<IsaInfo> compiled_isas() {
  std::vector<IsaInfo> out;
  for (const Isa& isa : isas()) out.push_back({isa.name, isa.supported()});
  return out;
}

std::string current_isa() { return cpu_kernels().name; }

}  // namespace llmcore

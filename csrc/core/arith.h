// Arithmetic on sizes. Static, because kernels of every instruction set use it (cpu/simd.h).
#pragma once
#include <cstdint>

namespace llmcore {

[[maybe_unused]] static inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused]] static inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
[[maybe_unused]] static inline int64_t ceil_div(int64_t n, int64_t m) { return (n + m - 1) / m; }
[[maybe_unused]] static inline int64_t round_up(int64_t n, int64_t m) { return ceil_div(n, m) * m; }

}  // namespace llmcore

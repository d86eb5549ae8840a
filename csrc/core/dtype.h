// Element types. Only PODs and static functions here: this header is compiled into every ISA's kernels, where a weak
// symbol could be merged with the AVX-512 copy and crash an older CPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace llmcore {

enum class DType : uint8_t { kF32, kBF16, kI32, kI64, kU32, kU8 };
enum class Device : uint8_t { kCPU, kCUDA };

// Storage of a bfloat16: the upper half of a float.
struct bf16 {
  uint16_t bits;
};

[[maybe_unused]] static inline size_t size_of(DType t) {
  switch (t) {
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
  }
  return 0;
}

[[maybe_unused]] static inline const char* name_of(DType t) {
  switch (t) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kU32:
      return "uint32";
    case DType::kU8:
      return "uint8";
  }
  return "?";
}

[[maybe_unused]] static inline const char* name_of(Device d) { return d == Device::kCPU ? "cpu" : "cuda"; }

[[maybe_unused]] static inline float to_float(bf16 x) {
  uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
[[maybe_unused]] static inline float to_float(float x) { return x; }

// Round to nearest, ties to even; NaN stays NaN (quiet).
[[maybe_unused]] static inline bf16 to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

}  // namespace llmcore

#include "ops/machine.h"

#include <algorithm>
#include <vector>

#include "core/thread_pool.h"
#include "ops/base/common.h"

namespace llmcore {

double machine_peak(DType dtype, int64_t pieces, int64_t rounds) {
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kU8)
    fail_type("machine_peak", "float32, bfloat16 or uint8", name_of(dtype));
  if (pieces < 1 || rounds < 1)
    fail("machine_peak", "pieces and rounds >= 1", std::to_string(pieces) + " and " + std::to_string(rounds));
  const auto peak = kernel("machine_peak", Device::kCPU, &KernelTable::machine_peak);
  std::vector<double> operations(static_cast<size_t>(pieces));
  parallel(pieces, [&](int64_t i) { operations[static_cast<size_t>(i)] = peak(dtype, rounds); });
  double sum = 0;
  for (const double n : operations) sum += n;
  return sum;
}

uint32_t machine_read(const Tensor& x) {
  if (x.dtype() != DType::kU32) fail_type("machine_read", "x uint32", name_of(x.dtype()));
  if (!x.is_contiguous()) fail("machine_read", "x contiguous", "a strided view");
  const auto read = kernel("machine_read", x.device(), &KernelTable::machine_read);
  constexpr int64_t kPiece = 1 << 20;  // 4 MB: each thread streams, and none waits long for the others
  const int64_t pieces = ceil_div(x.size(), kPiece);
  std::vector<uint32_t> sums(static_cast<size_t>(pieces));
  parallel(pieces, [&](int64_t i) {
    sums[static_cast<size_t>(i)] =
        read(x.data_as<const uint32_t>() + i * kPiece, std::min(kPiece, x.size() - i * kPiece));
  });
  uint32_t sum = 0;
  for (const uint32_t n : sums) sum += n;
  return sum;
}

}  // namespace llmcore

#include "ops/base/dispatch.h"

#include "core/device.h"
#include "cpu/isas.h"

namespace llmcore {

const KernelTable& kernels(Device device) { return device == Device::kCPU ? cpu_kernels() : cuda().kernels; }

}  // namespace llmcore

#include "bindings/register.h"

namespace llmcore {
void register_ops(pybind11::module_&) {}
}  // namespace llmcore

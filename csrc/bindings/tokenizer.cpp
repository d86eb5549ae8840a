#include "bindings/register.h"
namespace llmcore { void register_tokenizer(pybind11::module_&) {} }

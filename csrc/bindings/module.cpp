// The _core extension module. Its contents are registered area by area.
#include "bindings/register.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "llmcore's C++ core: tensors, kernels and the tokenizer. Use it through the llmcore package.";
  llmcore::register_tensor(m);
  llmcore::register_dlpack(m);
  llmcore::register_runtime(m);
  llmcore::register_plan(m);
  llmcore::register_ops(m);
  llmcore::register_tokenizer(m);
  llmcore::register_models(m);
  llmcore::register_regex(m);
}

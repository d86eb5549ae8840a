// One register_* function per area; module.cpp calls them in order.
#pragma once
#include <pybind11/pybind11.h>

namespace llmcore {
void register_tensor(pybind11::module_& m);
void register_dlpack(pybind11::module_& m);
void register_runtime(pybind11::module_& m);
void register_plan(pybind11::module_& m);
void register_ops(pybind11::module_& m);
void register_tokenizer(pybind11::module_& m);
void register_models(pybind11::module_& m);
void register_regex(pybind11::module_& m);
}  // namespace llmcore

#include "core/plan.h"

#include "bindings/register.h"

namespace py = pybind11;

namespace llmcore {

void register_plan(py::module_& m) {
  py::class_<Plan>(m, "Plan", "What ops did once, to be done again in the same memory.")
      .def(py::init<>())
      .def("begin", &Plan::begin, "Record what this thread's ops do from now on, while they do it.")
      .def("end", &Plan::end)
      .def("run", &Plan::run, py::call_guard<py::gil_scoped_release>())
      .def("__len__", &Plan::size);
}

}  // namespace llmcore

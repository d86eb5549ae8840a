#include "core/plan.h"

#include "bindings/register.h"

namespace py = pybind11;

namespace llmcore {

void register_plan(py::module_& m) {
  py::class_<Plan>(m, "Plan", "A recording of ops, to be replayed in the same memory.")
      .def(py::init<>())
      .def("begin", &Plan::begin, "Start recording this thread's ops as they run.")
      .def("end", &Plan::end)
      .def("run", &Plan::run, py::call_guard<py::gil_scoped_release>())
      .def("__len__", &Plan::size);
}

}  // namespace llmcore

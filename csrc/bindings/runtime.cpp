#include <pybind11/stl.h>

#include "bindings/register.h"
#include "core/allocator.h"
#include "core/check.h"
#include "core/philox.h"
#include "core/thread_pool.h"
#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "ops/machine.h"

namespace py = pybind11;

namespace llmcore {

void register_runtime(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    }
  });
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"), py::call_guard<py::gil_scoped_release>());
  m.def("available_cpus", &available_cpus);
  m.def("current_isa", &current_isa);
  m.def("fast_bf16", [] { return kernels(Device::kCPU).fast_bf16; });
  m.def("compiled_isas", [] {
    std::vector<std::pair<std::string, bool>> out;
    for (const IsaInfo& isa : compiled_isas()) out.emplace_back(isa.name, isa.supported);
    return out;
  });
  m.def("memory_stats", [] {
    const MemoryStats s = memory_stats();
    return py::dict(py::arg("allocated") = s.allocated, py::arg("peak") = s.peak, py::arg("cached") = s.cached);
  });
  m.def(
      "philox",
      [](uint64_t key, uint64_t lo, uint64_t hi) {
        const Philox4 r = philox4x32(key, lo, hi);
        return std::vector<uint32_t>(r.v, r.v + 4);
      },
      py::arg("key"), py::arg("counter_lo"), py::arg("counter_hi"), "Philox4x32-10: four 32-bit words.");
  m.def("reset_peak_memory", &reset_peak_memory);
  m.def("release_cached_memory", &release_cached_memory);
  m.def("machine_peak", &machine_peak, py::arg("dtype"), py::arg("pieces"), py::arg("rounds"),
        py::call_guard<py::gil_scoped_release>());
  m.def("machine_read", &machine_read, py::arg("x"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace llmcore

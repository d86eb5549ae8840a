#include <pybind11/stl.h>

#include "bindings/register.h"
#include "core/allocator.h"
#include "core/check.h"
#include "core/device.h"
#include "core/philox.h"
#include "core/thread_pool.h"
#include "cpu/isas.h"
#include "ops/base/dispatch.h"
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
  m.def(
      "fast_bf16", [](const std::string& device) { return kernels(device_named(device)).fast_bf16; },
      py::arg("device") = "cpu");
  m.def("set_cuda_paths", &set_cuda_paths, py::arg("library"), py::arg("blas"));
  m.def(
      "cuda_info",
      [] {
        CudaDeviceInfo info{};
        cuda().info(&info);
        return py::dict(py::arg("name") = info.name, py::arg("capability") = std::make_pair(info.major, info.minor),
                        py::arg("multiprocessors") = info.multiprocessors, py::arg("memory") = info.memory,
                        py::arg("free_memory") = info.free_memory, py::arg("l2_bytes") = info.l2_bytes,
                        py::arg("shared_bytes") = info.shared_bytes, py::arg("clock_hz") = info.clock_hz,
                        py::arg("memory_clock_hz") = info.memory_clock_hz,
                        py::arg("memory_bus_bits") = info.memory_bus_bits, py::arg("driver") = info.driver,
                        py::arg("runtime") = info.runtime, py::arg("blas") = info.blas);
      },
      "Open and describe the device and its library. A one-line RuntimeError if there is no device.");
  m.def(
      "synchronize",
      [] {
        if (const CudaApi* api = opened_cuda()) {
          api->synchronize();
          check_cuda("synchronize");
        }
      },
      py::call_guard<py::gil_scoped_release>(), "Wait until the device has finished all its work.");
  m.def("compiled_isas", [] {
    std::vector<std::pair<std::string, bool>> out;
    for (const IsaInfo& isa : compiled_isas()) out.emplace_back(isa.name, isa.supported);
    return out;
  });
  m.def(
      "memory_stats",
      [](const std::string& device) {
        MemoryStats s{};
        if (device_named(device) == Device::kCPU)
          s = memory_stats();
        else
          cuda().memory_stats(&s);
        return py::dict(py::arg("allocated") = s.allocated, py::arg("peak") = s.peak, py::arg("cached") = s.cached);
      },
      py::arg("device") = "cpu");
  m.def(
      "philox",
      [](uint64_t key, uint64_t lo, uint64_t hi) {
        const Philox4 r = philox4x32(key, lo, hi);
        return std::vector<uint32_t>(r.v, r.v + 4);
      },
      py::arg("key"), py::arg("counter_lo"), py::arg("counter_hi"), "Philox4x32-10: four 32-bit words.");
  m.def("reset_peak_memory", [] {
    reset_peak_memory();
    if (const CudaApi* api = opened_cuda()) api->reset_peak();
  });
  m.def("release_cached_memory", [] {
    release_cached_memory();
    if (const CudaApi* api = opened_cuda()) api->release_cached();
  });
  m.def("machine_peak", &machine_peak, py::arg("dtype"), py::arg("pieces"), py::arg("rounds"),
        py::call_guard<py::gil_scoped_release>());
  m.def("machine_read", &machine_read, py::arg("x"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace llmcore

// Tensors of other libraries, and ours for them, without copies: the structures of https://dmlc.github.io/dlpack
// (version 0, which every library reads).
#include "bindings/register.h"
#include "core/check.h"
#include "core/device.h"
#include "core/tensor.h"

namespace py = pybind11;

namespace llmcore {
namespace {

constexpr int32_t kDlCpu = 1, kDlCuda = 2, kDlCudaHost = 3;
enum DlCode : uint8_t { kDlInt = 0, kDlUInt = 1, kDlFloat = 2, kDlBfloat = 4 };

struct DlDevice {
  int32_t type, id;
};
struct DlType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  DlType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: contiguous
  uint64_t byte_offset;
};
struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};

DlType type_of(DType t) {
  const uint8_t bits = static_cast<uint8_t>(8 * size_of(t));
  switch (t) {
    case DType::kF32:
      return {kDlFloat, bits, 1};
    case DType::kBF16:
      return {kDlBfloat, bits, 1};
    case DType::kI32:
    case DType::kI64:
      return {kDlInt, bits, 1};
    default:
      return {kDlUInt, bits, 1};
  }
}

DType dtype_of(DlType given) {
  for (DType t : {DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU32, DType::kU8}) {
    const DlType known = type_of(t);
    if (given.code == known.code && given.bits == known.bits && given.lanes == 1) return t;
  }
  fail_type("from_dlpack", "float32, bfloat16, int32, int64, uint32 or uint8",
            "code " + std::to_string(given.code) + " of " + std::to_string(given.bits) + " bits");
}

// What an exported tensor keeps alive until its consumer is done with it.
struct Exported {
  Tensor tensor;
  Shape shape, strides;
  DlManaged managed;
};

py::capsule to_dlpack(const Tensor& t) {
  if (!t.writable()) fail("to_dlpack", "writable memory", "a read-only array");
  if (t.device() == Device::kCUDA) {
    py::gil_scoped_release release;
    cuda().synchronize();
    check_cuda("to_dlpack");
  }
  auto* e = new Exported{t, t.shape(), t.strides(), {}};
  e->managed.tensor = {t.data(),
                       {t.device() == Device::kCUDA ? kDlCuda : kDlCpu, 0},
                       static_cast<int32_t>(t.ndim()),
                       type_of(t.dtype()),
                       e->shape.data(),
                       e->strides.data(),
                       0};
  e->managed.context = e;
  e->managed.deleter = [](DlManaged* m) {
    // The consumer's kernels may still read it on a stream that ours does not wait for, and freed memory is reused at
    // once.
    if (m->tensor.device.type == kDlCuda) {
      if (PyGILState_Check()) {
        py::gil_scoped_release release;
        cuda().synchronize_all();
      } else {
        cuda().synchronize_all();
      }
    }
    delete static_cast<Exported*>(m->context);
  };
  // A consumer that takes the tensor renames the capsule; otherwise it is still ours to free.
  return py::reinterpret_steal<py::capsule>(PyCapsule_New(&e->managed, "dltensor", [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;
    auto* m = static_cast<DlManaged*>(PyCapsule_GetPointer(capsule, "dltensor"));
    m->deleter(m);
  }));
}

Tensor from_dlpack(const py::capsule& capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) fail("from_dlpack", "an unused 'dltensor' capsule", "another one");
  auto* const m = static_cast<DlManaged*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  const DlTensor& t = m->tensor;
  if (t.device.type != kDlCpu && t.device.type != kDlCuda && t.device.type != kDlCudaHost)
    fail("from_dlpack", "a tensor on the CPU or on CUDA", "device type " + std::to_string(t.device.type));
  if (t.device.type == kDlCuda && t.device.id != 0)
    fail("from_dlpack", "a tensor on the first GPU", "one on GPU " + std::to_string(t.device.id));
  if (t.ndim < 0 || t.ndim > 64) fail("from_dlpack", "0 to 64 dimensions", std::to_string(t.ndim));
  const DType dtype = dtype_of(t.dtype);
  Shape shape(t.shape, t.shape + t.ndim);
  Shape strides = t.strides ? Shape(t.strides, t.strides + t.ndim) : contiguous_strides(shape);
  void* const data = static_cast<char*>(t.data) + t.byte_offset;
  if (reinterpret_cast<uintptr_t>(data) % size_of(dtype)) fail("from_dlpack", "an aligned tensor", "one that is not");
  if (t.device.type == kDlCuda) {
    py::gil_scoped_release release;
    cuda().synchronize_all();  // the owner works on streams that ours does not wait for
    check_cuda("from_dlpack");
  }
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  std::shared_ptr<void> owner(m, [](void* p) {
    auto* const managed = static_cast<DlManaged*>(p);
    if (managed->tensor.device.type == kDlCuda) cuda().synchronize();  // nor does the owner wait for ours
    py::gil_scoped_acquire gil;                                        // the deleter may be Python's
    if (managed->deleter) managed->deleter(managed);
  });
  return Tensor::wrap(data, std::move(shape), std::move(strides), dtype, std::move(owner), true,
                      t.device.type == kDlCuda ? Device::kCUDA : Device::kCPU);
}

}  // namespace

void register_dlpack(py::module_& m) {
  m.def("to_dlpack", &to_dlpack, py::arg("array"),
        "Export the same memory as a capsule; waits for the GPU's work on it.");
  m.def("from_dlpack", &from_dlpack, py::arg("capsule"), "Import the same memory as an array.");
}

}  // namespace llmcore

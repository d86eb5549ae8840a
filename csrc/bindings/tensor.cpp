// Tensor <-> numpy, without copies. bfloat16 crosses as uint16; the Python side views it as ml_dtypes.bfloat16.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/register.h"
#include "core/check.h"
#include "core/device.h"
#include "core/tensor.h"

namespace py = pybind11;

namespace llmcore {
namespace {

// Returns a member of the enumeration DType.
struct Member : py::object {
  using py::object::object;
};

}  // namespace
}  // namespace llmcore

template <>
struct pybind11::detail::handle_type_name<llmcore::Member> {
  static constexpr auto name = const_name("llmcore._core.DType");
};

namespace llmcore {
namespace {

std::optional<DType> dtype_of(const py::dtype& dtype, bool as_bf16) {
  const char kind = dtype.kind();
  const auto item = dtype.itemsize();
  if (as_bf16 && item == 2) return DType::kBF16;
  if (kind == 'f' && item == 4) return DType::kF32;
  if (kind == 'i' && item == 4) return DType::kI32;
  if (kind == 'i' && item == 8) return DType::kI64;
  if (kind == 'u' && item == 4) return DType::kU32;
  if (kind == 'u' && item == 1) return DType::kU8;
  return std::nullopt;
}

// Returns the memory of an array, or nothing if it is not aligned to its items or its strides are not whole items.
std::optional<Tensor> wrap_numpy(const py::array& a, DType dtype) {
  const auto item = a.itemsize();
  Shape shape(a.shape(), a.shape() + a.ndim()), strides(static_cast<size_t>(a.ndim()));
  bool usable = reinterpret_cast<uintptr_t>(a.data()) % static_cast<uintptr_t>(item) == 0;
  for (int i = 0; i < a.ndim(); ++i) {
    usable = usable && a.strides(i) % item == 0;
    strides[i] = a.strides(i) / item;
  }
  if (!usable) return std::nullopt;
  auto* keep = new py::object(a);
  std::shared_ptr<void> owner(keep, [](void* p) {
    py::gil_scoped_acquire gil;
    delete static_cast<py::object*>(p);
  });
  return Tensor::wrap(const_cast<void*>(a.data()), std::move(shape), std::move(strides), dtype, std::move(owner),
                      a.writeable());
}

Tensor from_numpy(const py::array& a, bool as_bf16) {
  const py::dtype given = a.dtype();
  const std::optional<DType> dtype = dtype_of(given, as_bf16);
  if (!dtype)
    fail_type("tensor", "float32, bfloat16, int32, int64, uint32 or uint8", py::str(given).cast<std::string>());
  if (given.byteorder() == '>') fail_type("tensor", "native byte order", "big-endian " + std::string(name_of(*dtype)));
  std::optional<Tensor> t = wrap_numpy(a, *dtype);
  if (!t) fail("tensor", "an aligned array", "one whose address or strides are not multiples of its item size");
  return *std::move(t);
}

// Returns what from_numpy returns, or None for anything that it does not take. It is cheap, because every op's
// arguments come through it.
std::optional<Tensor> try_numpy(const py::object& x) {
  if (!py::isinstance<py::array>(x)) return std::nullopt;
  const auto a = py::reinterpret_borrow<py::array>(x);
  const py::dtype given = a.dtype();
  const std::optional<DType> dtype = dtype_of(given, false);
  if (!dtype || given.byteorder() == '>') return std::nullopt;
  return wrap_numpy(a, *dtype);
}

py::array to_numpy(const Tensor& given) {
  Tensor t = given;
  if (given.device() != Device::kCPU) {
    py::gil_scoped_release release;
    t = given.to(Device::kCPU);
  }
  py::dtype dtype = t.dtype() == DType::kBF16 ? py::dtype("uint16") : py::dtype(name_of(t.dtype()));
  std::vector<py::ssize_t> strides;
  for (int64_t s : t.strides()) strides.push_back(s * static_cast<py::ssize_t>(size_of(t.dtype())));
  py::capsule owner(new Tensor(t), [](void* p) { delete static_cast<Tensor*>(p); });
  py::array array(dtype, t.shape(), strides, t.data(), owner);
  // Writing to a copy would be a mistake: the caller means the original.
  if (!t.writable() || given.device() != Device::kCPU) array.attr("setflags")(py::arg("write") = false);
  return array;
}

}  // namespace

void register_tensor(py::module_& m) {
  py::enum_<DType> dtypes(m, "DType");
  dtypes.value("float32", DType::kF32)
      .value("bfloat16", DType::kBF16)
      .value("int32", DType::kI32)
      .value("int64", DType::kI64)
      .value("uint32", DType::kU32)
      .value("uint8", DType::kU8);

  // One object per member, so that Python can compare by identity and reading an attribute creates no object.
  static std::vector<py::handle> members;
  for (DType t : {DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU32, DType::kU8})
    members.push_back(py::object(dtypes.attr(name_of(t))).release());

  py::class_<Tensor>(m, "Array", "Storage with a shape and strides; llmcore.Tensor adds gradients.")
      .def_property_readonly("shape", [](const Tensor& t) { return py::tuple(py::cast(t.shape())); })
      .def_property_readonly(
          "dtype",
          [](const Tensor& t) { return py::reinterpret_borrow<Member>(members[static_cast<size_t>(t.dtype())]); })
      .def_property_readonly("device", [](const Tensor& t) { return name_of(t.device()); })
      .def_property_readonly("ndim", &Tensor::ndim)
      .def_property_readonly("size", &Tensor::size)
      .def_property_readonly("nbytes",
                             [](const Tensor& t) { return t.size() * static_cast<int64_t>(size_of(t.dtype())); })
      .def_property_readonly("is_contiguous", &Tensor::is_contiguous)
      .def("contiguous", &Tensor::contiguous)
      .def("reshape", &Tensor::reshape, py::arg("shape"))
      .def("narrow", &Tensor::narrow, py::arg("dim"), py::arg("start"), py::arg("length"))
      .def("zero", &Tensor::zero)
      .def(
          "copy_from", [](Tensor& t, const Tensor& src) { copy_into(src, t); }, py::arg("src"),
          py::call_guard<py::gil_scoped_release>())
      .def(
          "to", [](const Tensor& t, const std::string& device) { return t.to(device_named(device)); },
          py::arg("device"), py::call_guard<py::gil_scoped_release>(),
          "Return this array, or a copy on another device.")
      .def("numpy", &to_numpy, "A numpy view of the same memory (for a device, a read-only copy); bfloat16 as uint16.");

  m.def("from_numpy", &from_numpy, py::arg("array"), py::arg("as_bf16") = false);
  m.def("try_numpy", &try_numpy, py::arg("x"));
  m.def(
      "empty",
      [](Shape s, DType t, const std::string& device) { return Tensor::empty(std::move(s), t, device_named(device)); },
      py::arg("shape"), py::arg("dtype"), py::arg("device") = "cpu");
  m.def(
      "zeros",
      [](Shape s, DType t, const std::string& device) { return Tensor::zeros(std::move(s), t, device_named(device)); },
      py::arg("shape"), py::arg("dtype"), py::arg("device") = "cpu");
  m.def("concat", &concat, py::arg("parts"), py::arg("dim"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace llmcore

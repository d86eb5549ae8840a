// Tensor <-> numpy, without copies. bfloat16 crosses as uint16; the Python side views it as ml_dtypes.bfloat16.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/register.h"
#include "core/check.h"
#include "core/tensor.h"

namespace py = pybind11;

namespace llmcore {
namespace {

// The array must be a buffer of a dtype we know, aligned to its items, with strides that are whole items.
Tensor from_numpy(const py::array& a, bool as_bf16) {
  DType dtype;
  const char kind = a.dtype().kind();
  const auto item = a.itemsize();
  if (as_bf16 && kind == 'u' && item == 2)
    dtype = DType::kBF16;
  else if (kind == 'f' && item == 4)
    dtype = DType::kF32;
  else if (kind == 'i' && item == 4)
    dtype = DType::kI32;
  else if (kind == 'i' && item == 8)
    dtype = DType::kI64;
  else if (kind == 'u' && item == 4)
    dtype = DType::kU32;
  else if (kind == 'u' && item == 1)
    dtype = DType::kU8;
  else
    fail_type("tensor", "float32, bfloat16, int32, int64, uint32 or uint8", py::str(a.dtype()).cast<std::string>());
  if (a.dtype().byteorder() == '>')
    fail_type("tensor", "native byte order", "big-endian " + std::string(name_of(dtype)));
  Shape shape(a.shape(), a.shape() + a.ndim()), strides(static_cast<size_t>(a.ndim()));
  bool usable = reinterpret_cast<uintptr_t>(a.data()) % static_cast<uintptr_t>(item) == 0;
  for (int i = 0; i < a.ndim(); ++i) {
    usable = usable && a.strides(i) % item == 0;
    strides[i] = a.strides(i) / item;
  }
  if (!usable) fail("tensor", "an aligned array", "one whose address or strides are not multiples of its item size");
  auto* keep = new py::object(a);
  std::shared_ptr<void> owner(keep, [](void* p) {
    py::gil_scoped_acquire gil;
    delete static_cast<py::object*>(p);
  });
  return Tensor::wrap(const_cast<void*>(a.data()), std::move(shape), std::move(strides), dtype, std::move(owner),
                      a.writeable());
}

py::array to_numpy(const Tensor& t) {
  py::dtype dtype = t.dtype() == DType::kBF16 ? py::dtype("uint16") : py::dtype(name_of(t.dtype()));
  std::vector<py::ssize_t> strides;
  for (int64_t s : t.strides()) strides.push_back(s * static_cast<py::ssize_t>(size_of(t.dtype())));
  py::capsule owner(new Tensor(t), [](void* p) { delete static_cast<Tensor*>(p); });
  py::array array(dtype, t.shape(), strides, t.data(), owner);
  if (!t.writable()) array.attr("setflags")(py::arg("write") = false);
  return array;
}

}  // namespace

void register_tensor(py::module_& m) {
  py::enum_<DType>(m, "DType")
      .value("float32", DType::kF32)
      .value("bfloat16", DType::kBF16)
      .value("int32", DType::kI32)
      .value("int64", DType::kI64)
      .value("uint32", DType::kU32)
      .value("uint8", DType::kU8);

  py::class_<Tensor>(m, "Array", "Storage with a shape and strides; llmcore.Tensor adds gradients.")
      .def_property_readonly("shape", [](const Tensor& t) { return py::tuple(py::cast(t.shape())); })
      .def_property_readonly("dtype", &Tensor::dtype)
      .def_property_readonly("device", [](const Tensor& t) { return name_of(t.device()); })
      .def_property_readonly("ndim", &Tensor::ndim)
      .def_property_readonly("size", &Tensor::size)
      .def_property_readonly("is_contiguous", &Tensor::is_contiguous)
      .def("contiguous", &Tensor::contiguous)
      .def("reshape", &Tensor::reshape, py::arg("shape"))
      .def("narrow", &Tensor::narrow, py::arg("dim"), py::arg("start"), py::arg("length"))
      .def("zero", &Tensor::zero)
      .def(
          "copy_from", [](Tensor& t, const Tensor& src) { copy_into(src, t); }, py::arg("src"))
      .def("numpy", &to_numpy, "A numpy view of the same memory; bfloat16 as uint16.");

  m.def("from_numpy", &from_numpy, py::arg("array"), py::arg("as_bf16") = false);
  m.def("empty", [](Shape s, DType t) { return Tensor::empty(std::move(s), t); }, py::arg("shape"), py::arg("dtype"));
  m.def("zeros", [](Shape s, DType t) { return Tensor::zeros(std::move(s), t); }, py::arg("shape"), py::arg("dtype"));
}

}  // namespace llmcore

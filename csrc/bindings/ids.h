// Ids on their way to Python.
#pragma once
#include <pybind11/numpy.h>

#include <cstdlib>

#include "tokenizer/containers/id_buffer.h"

namespace llmcore {

inline pybind11::list to_list(const tok::IdBuffer& ids) {
  pybind11::list list(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    PyObject* id = PyLong_FromUnsignedLong(ids.data()[i]);
    if (!id) throw pybind11::error_already_set();
    PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), id);
  }
  return list;
}

inline pybind11::array_t<uint32_t> to_array(tok::IdBuffer&& ids) {
  const size_t size = ids.size();
  uint32_t* data = ids.release();
  pybind11::capsule owner(data ? data : std::malloc(1), [](void* memory) { std::free(memory); });
  return pybind11::array_t<uint32_t>({size}, {sizeof(uint32_t)}, data, owner);
}

}  // namespace llmcore

// _core.Regex: where an expression matches in a text, for the steps of a tokenizer.json that split or replace by one.
#include "tokenizer/split/regex.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/register.h"

namespace py = pybind11;

namespace llmcore {
namespace {

using Ranges = std::vector<std::pair<size_t, size_t>>;  // in characters

Ranges matches(const tok::Regex& regex, const py::str& text) {
  Py_ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (!data) throw py::error_already_set();
  const auto* p = reinterpret_cast<const uint8_t*>(data);
  const uint8_t* const end = p + size;
  Ranges found;
  for (size_t at = 0; p < end;) {
    const size_t start = at;
    const uint8_t* const matched = regex.match(p, end);
    const uint8_t* const next = matched ? matched : p + tok::code_at(p, end).length;
    for (; p < next; ++at) p += tok::code_at(p, end).length;
    if (matched) found.emplace_back(start, at);
  }
  return found;
}

}  // namespace

void register_regex(py::module_& m) {
  py::class_<tok::Regex>(m, "Regex", "A regular expression (csrc/tokenizer/split/regex.h): immutable.")
      .def(py::init([](const std::string& pattern) { return tok::Regex(pattern); }), py::arg("pattern"))
      .def("matches", &matches, py::arg("text"),
           "Returns where the matches begin and end, in characters, in order; they do not overlap.");
}

}  // namespace llmcore

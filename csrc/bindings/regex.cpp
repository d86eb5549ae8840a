// _core.Regex: where an expression matches in a text, for the steps of a tokenizer.json that split or replace by one.
#include "tokenizer/split/regex.h"

#include <pybind11/stl.h>

#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/register.h"

namespace py = pybind11;

namespace llmcore {
namespace {

std::string_view utf8(const py::str& text) {
  Py_ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (!data) throw py::error_already_set();
  return {data, static_cast<size_t>(size)};
}

using Ranges = std::vector<std::pair<size_t, size_t>>;  // in characters

Ranges matches(const tok::Regex& regex, const py::str& text, size_t before) {
  const std::string_view view = utf8(text);
  const auto* p = reinterpret_cast<const uint8_t*>(view.data());
  const uint8_t *const end = p + view.size(), *until = p;
  for (size_t i = 0; i < before && until < end; ++i) until += tok::code_at(until, end).length;
  Ranges found;
  size_t at = 0;  // characters up to p
  const auto place = [&](const uint8_t* to) {
    for (; p < to; ++at) p += tok::code_at(p, end).length;
    return at;
  };
  const auto visit = [&](const uint8_t* begin, const uint8_t* matched) {
    const size_t first = place(begin);
    found.emplace_back(first, place(matched));
  };
  if (before > 0 && p < end) regex.each_match(p, end, visit, until < end ? until : nullptr);
  return found;
}

py::list find_all(const tok::Regex& regex, const py::str& text) {
  const std::string_view view = utf8(text);
  py::list found;
  const auto visit = [&](const uint8_t* p, const uint8_t* end) {
    found.append(py::str(reinterpret_cast<const char*>(p), static_cast<size_t>(end - p)));
  };
  const auto* p = reinterpret_cast<const uint8_t*>(view.data());
  regex.each_match(p, p + view.size(), visit, nullptr);
  return found;
}

}  // namespace

void register_regex(py::module_& m) {
  py::class_<tok::Regex>(m, "Regex", "A regular expression (csrc/tokenizer/split/regex.h): immutable.")
      .def(py::init([](const std::string& pattern, bool common) {
             return tok::Regex(pattern, common ? tok::Dialect::kCommon : tok::Dialect::kOniguruma);
           }),
           py::arg("pattern"), py::arg("common") = false,
           "As Oniguruma reads it; common: only what Oniguruma, fancy-regex and PyPI's regex read alike.")
      .def("matches", &matches, py::arg("text"), py::arg("before") = std::numeric_limits<size_t>::max(),
           "Returns where the matches begin and end, in characters, in order; they do not overlap. before: only of "
           "those "
           "that begin before this place.")
      .def("find_all", &find_all, py::arg("text"), "Returns the matches themselves.");
}

}  // namespace llmcore

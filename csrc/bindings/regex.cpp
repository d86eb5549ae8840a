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

// Calls visit(begin, end) for every match, and skip(begin, end) for the characters between them, one by one, while
// these return true.
template <class Visit, class Skip>
void each_match(const tok::Regex& regex, std::string_view text, Visit&& visit, Skip&& skip) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* const end = p + text.size();
  while (p < end) {
    const uint8_t* const matched = regex.match(p, end);
    const uint8_t* const next = matched ? matched : p + tok::code_at(p, end).length;
    if (!(matched ? visit(p, next) : skip(p, next))) break;
    p = next;
  }
}

using Ranges = std::vector<std::pair<size_t, size_t>>;  // in characters

Ranges matches(const tok::Regex& regex, const py::str& text, size_t before) {
  Ranges found;
  if (before == 0) return found;
  size_t at = 0;
  const auto visit = [&](const uint8_t* p, const uint8_t* end) {
    const size_t start = at;
    for (; p < end; ++at) p += tok::code_at(p, end).length;
    found.emplace_back(start, at);
    return at < before;
  };
  each_match(regex, utf8(text), visit, [&](const uint8_t*, const uint8_t*) { return ++at < before; });
  return found;
}

py::list find_all(const tok::Regex& regex, const py::str& text) {
  py::list found;
  const auto visit = [&](const uint8_t* p, const uint8_t* end) {
    found.append(py::str(reinterpret_cast<const char*>(p), static_cast<size_t>(end - p)));
    return true;
  };
  each_match(regex, utf8(text), visit, [](const uint8_t*, const uint8_t*) { return true; });
  return found;
}

}  // namespace

void register_regex(py::module_& m) {
  py::class_<tok::Regex>(m, "Regex", "A regular expression (csrc/tokenizer/split/regex.h): immutable.")
      .def(py::init([](const std::string& pattern) { return tok::Regex(pattern); }), py::arg("pattern"))
      .def("matches", &matches, py::arg("text"), py::arg("before") = std::numeric_limits<size_t>::max(),
           "Returns where the matches begin and end, in characters, in order; they do not overlap. before: only of "
           "those "
           "that begin before this place.")
      .def("find_all", &find_all, py::arg("text"), "Returns the matches themselves.");
}

}  // namespace llmcore

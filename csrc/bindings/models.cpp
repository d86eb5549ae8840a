// The models of general tokenizers: _core.Model and its kinds, and _core.AddedTokens. Python's tokenizer/pipeline is
// their only user; anything checked there is not checked here.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "bindings/ids.h"
#include "bindings/register.h"
#include "tokenizer/models/added_tokens.h"
#include "tokenizer/models/general_bpe.h"
#include "tokenizer/models/model.h"
#include "tokenizer/models/sentencepiece_normalizer.h"

namespace py = pybind11;

namespace llmcore {
namespace {

std::string_view view(py::handle text) {
  Py_ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (!data) throw py::error_already_set();
  return {data, static_cast<size_t>(size)};
}

py::str to_str(std::string_view text) {
  PyObject* made = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

// Encodes the parts of a text, each a piece or an id.
tok::IdBuffer encode(const tok::Model& model, const py::list& parts) {
  std::vector<tok::Model::Part> views;
  std::vector<py::object> owners;  // another thread may change the list meanwhile
  views.reserve(parts.size());
  owners.reserve(parts.size());
  size_t bytes = 0;
  for (py::handle part : parts) {
    if (PyLong_Check(part.ptr())) {
      views.push_back({{}, part.cast<uint32_t>()});
      continue;
    }
    const std::string_view text = view(part);
    if (text.empty()) continue;
    views.push_back({text});
    owners.push_back(py::reinterpret_borrow<py::object>(part));
    bytes += text.size();
  }
  tok::IdBuffer ids;
  std::optional<py::gil_scoped_release> unlocked;
  if (bytes >= 4096) unlocked.emplace();
  model.encode(views, ids);
  return ids;
}

int64_t id_or_none(std::optional<uint32_t> id) { return id ? static_cast<int64_t>(*id) : -1; }

}  // namespace

void register_models(py::module_& m) {
  using Tokens = std::vector<std::string>;
  py::class_<tok::Model>(m, "Model", "Turns pieces of text into ids: immutable, used by any number of threads.")
      .def(
          "encode", [](const tok::Model& model, const py::list& parts) { return to_list(encode(model, parts)); },
          py::arg("parts"), "Returns the ids of pieces of text; an id among them stays as it is.")
      .def(
          "encode_array", [](const tok::Model& model, const py::list& parts) { return to_array(encode(model, parts)); },
          py::arg("parts"));
  py::class_<tok::WordLevel, tok::Model>(m, "WordLevel")
      .def(py::init([](Tokens tokens, std::optional<uint32_t> unknown) {
             return new tok::WordLevel(std::move(tokens), id_or_none(unknown));
           }),
           py::arg("tokens"), py::arg("unknown"));
  py::class_<tok::WordPiece, tok::Model>(m, "WordPiece")
      .def(py::init([](Tokens tokens, std::optional<uint32_t> unknown, std::string prefix, uint64_t max_chars) {
             return new tok::WordPiece(std::move(tokens), id_or_none(unknown), std::move(prefix), max_chars);
           }),
           py::arg("tokens"), py::arg("unknown"), py::arg("prefix"), py::arg("max_chars"));
  py::class_<tok::Unigram, tok::Model>(m, "Unigram")
      .def(py::init([](Tokens tokens, std::vector<double> scores, std::optional<uint32_t> unknown, bool fallback) {
             return new tok::Unigram(std::move(tokens), std::move(scores), id_or_none(unknown), fallback);
           }),
           py::arg("tokens"), py::arg("scores"), py::arg("unknown"), py::arg("byte_fallback"))
      .def_static(
          "sentencepiece",
          [](Tokens tokens, std::vector<double> scores, double unknown_score, uint32_t unknown,
             std::vector<uint32_t> byte_ids) {
            tok::Unigram::Rules rules{unknown_score, std::move(byte_ids), true};
            return std::make_unique<tok::Unigram>(std::move(tokens), std::move(scores), unknown, std::move(rules));
          },
          py::arg("tokens"), py::arg("scores"), py::arg("unknown_score"), py::arg("unknown"), py::arg("byte_ids"),
          "By the rules of SentencePiece itself; byte_ids for all 256 bytes, or empty.");
  py::class_<tok::GeneralBpe, tok::Model>(m, "GeneralBPE")
      .def(py::init([](Tokens tokens, const std::vector<std::pair<uint32_t, uint32_t>>& merges,
                       std::optional<uint32_t> unknown, std::string prefix, std::string suffix, bool fuse_unknown,
                       bool byte_fallback, bool whole_piece_first) {
             return new tok::GeneralBpe(
                 std::move(tokens), merges, id_or_none(unknown),
                 {std::move(prefix), std::move(suffix), fuse_unknown, byte_fallback, whole_piece_first});
           }),
           py::arg("tokens"), py::arg("merges"), py::arg("unknown"), py::arg("prefix"), py::arg("suffix"),
           py::arg("fuse_unknown"), py::arg("byte_fallback"), py::arg("whole_piece_first"));
  py::class_<tok::Specials>(m, "AddedTokens", "Finds added tokens in a text: the leftmost, the longest of these.")
      .def(py::init([](const std::vector<std::tuple<std::string, uint32_t, uint8_t>>& tokens) {
             std::vector<tok::Special> specials;
             for (const auto& [text, id, flags] : tokens) specials.push_back({text, id, true, flags});
             return new tok::Specials(std::move(specials));
           }),
           py::arg("tokens"))
      .def(
          "split",
          [](const tok::Specials& tokens, py::str text) {
            const std::string_view all = view(text);
            py::list parts;
            tok::each_added_token(tokens, all, [&](size_t begin, size_t end, const tok::Special* special) {
              const bool whole = begin == 0 && end == all.size();
              parts.append(py::make_tuple(whole ? text : to_str(all.substr(begin, end - begin)),
                                          special ? py::object(py::int_(special->id)) : py::object(py::none())));
            });
            return parts;
          },
          py::arg("text"), "Returns the stretches of a text, each with the id of the token that it is, or None.");
  py::class_<tok::SentencePieceNormalizer>(m, "SentencePieceNormalizer",
                                           "Brings text to the form of a SentencePiece model.")
      .def(py::init([](const py::bytes& charsmap, std::vector<std::string> symbols, bool add_dummy_prefix,
                       bool remove_extra_whitespaces) {
             return new tok::SentencePieceNormalizer(
                 {charsmap, std::move(symbols), add_dummy_prefix, remove_extra_whitespaces});
           }),
           py::arg("charsmap"), py::arg("symbols"), py::arg("add_dummy_prefix"), py::arg("remove_extra_whitespaces"))
      .def(
          "normalize",
          [](const tok::SentencePieceNormalizer& normalizer, py::str text) {
            const std::string normal = normalizer.normalize(view(text));
            PyObject* made = PyUnicode_DecodeUTF8(normal.data(), static_cast<Py_ssize_t>(normal.size()), "replace");
            if (!made) throw py::error_already_set();
            return py::reinterpret_steal<py::str>(made);
          },
          py::arg("text"));
}

}  // namespace llmcore

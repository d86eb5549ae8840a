// _core.BPE and _core.BPETrainer. Python's Tokenizer is the public interface; anything checked there is not checked
// here.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>

#include "bindings/ids.h"
#include "bindings/register.h"
#include "tokenizer/bpe/bpe.h"
#include "tokenizer/bpe/offsets.h"
#include "tokenizer/bpe/sentencepiece.h"
#include "tokenizer/files/json_vocabulary.h"
#include "tokenizer/files/ranks.h"
#include "tokenizer/split/splitter.h"
#include "tokenizer/train/trainer.h"
#include "tokenizer/unicode/tables.h"

namespace py = pybind11;

namespace llmcore {
namespace {

using tok::Bpe;
using tok::IdBuffer;
using View = Bpe::Text;

// Returns the UTF-8 of a str, or the contents of bytes, valid while the object lives. Raises UnicodeEncodeError for a
// str that has no UTF-8 (a lone surrogate).
View view_text(py::handle text, const char* op) {
  if (PyUnicode_Check(text.ptr())) {
    Py_ssize_t size;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (!data) throw py::error_already_set();
    return {reinterpret_cast<const uint8_t*>(data), static_cast<size_t>(size)};
  }
  if (PyBytes_Check(text.ptr())) {
    return {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(text.ptr())),
            static_cast<size_t>(PyBytes_GET_SIZE(text.ptr()))};
  }
  throw py::type_error(std::string("[") + op + "] expected str or bytes, got " + Py_TYPE(text.ptr())->tp_name);
}

using Specials = std::vector<std::tuple<std::string, uint32_t, uint8_t>>;  // text, id, flags (tok::Special::Flags)

std::vector<tok::Special> to_specials(const Specials& pairs, const Specials& always = {}) {
  std::vector<tok::Special> specials;
  for (const auto& [text, id, flags] : pairs) specials.push_back({text, id, false, flags});
  for (const auto& [text, id, flags] : always) specials.push_back({text, id, true, flags});
  return specials;
}

// Reads a pattern's name or expression, or a list of them for several stages.
using Pattern = std::variant<std::string, std::vector<std::string>>;

tok::Splitter to_splitter(const Pattern& pattern) {
  if (const auto* stages = std::get_if<std::vector<std::string>>(&pattern)) return tok::Splitter(*stages);
  return tok::Splitter({std::get<std::string>(pattern)});
}

py::object to_pattern(const tok::Splitter& splitter) {
  const std::vector<std::string>& stages = splitter.stages();
  return stages.size() == 1 ? py::object(py::str(stages[0])) : py::object(py::tuple(py::cast(stages)));
}

// Which special tokens a call allows: None for ordinary text, True for all, or a list of names.
Bpe::Allowed to_allowed(py::handle policy, bool normalized = false) {
  Bpe::Allowed allowed;
  allowed.normalized = normalized;
  allowed.ordinary = policy.is_none();
  if (PyBool_Check(policy.ptr())) {
    allowed.all = policy.cast<bool>();
  } else if (!allowed.ordinary && PyObject_Length(policy.ptr()) != 0) {
    allowed.names = policy.cast<std::vector<std::string>>();
  }
  return allowed;
}

// Releases the GIL if the work takes longer than releasing it.
template <class Work>
auto unlocked(size_t bytes, Work&& work) {
  if (bytes < 4096) return work();
  py::gil_scoped_release release;
  return work();
}

IdBuffer encode(const Bpe& bpe, py::handle text, py::handle policy, bool normalized) {
  const View view = view_text(text, "encode");
  const Bpe::Allowed allowed = to_allowed(policy, normalized);
  return unlocked(view.size, [&] {
    IdBuffer ids;
    bpe.encode(view, allowed, ids);
    return ids;
  });
}

// Returns the ids and where their tokens begin, in characters for a str and in bytes for bytes.
py::tuple encode_offsets(const Bpe& bpe, py::handle text, py::handle policy) {
  const View view = view_text(text, "encode_offsets");
  const Bpe::Allowed allowed = to_allowed(policy);
  const bool characters = PyUnicode_Check(text.ptr());
  IdBuffer ids;
  const std::vector<int64_t> starts = unlocked(view.size, [&] {
    bpe.encode(view, allowed, ids);
    return tok::token_starts(bpe, view, ids, characters);
  });
  const auto size = static_cast<py::ssize_t>(starts.size());
  return py::make_tuple(to_array(std::move(ids)), py::array_t<int64_t>(size, starts.data()));
}

size_t count(const Bpe& bpe, py::handle text, py::handle policy, bool normalized) {
  const View view = view_text(text, "count");
  const Bpe::Allowed allowed = to_allowed(policy, normalized);
  return unlocked(view.size, [&] { return bpe.count(view, allowed); });
}

py::list encode_batch(const Bpe& bpe, const py::list& texts, py::handle policy, bool arrays) {
  std::vector<View> views;
  std::vector<py::object> owners;  // another thread may change the list meanwhile
  size_t bytes = 0;
  for (py::handle text : texts) {
    views.push_back(view_text(text, "encode_batch"));
    owners.push_back(py::reinterpret_borrow<py::object>(text));
    bytes += views.back().size;
  }
  const Bpe::Allowed allowed = to_allowed(policy);
  std::vector<IdBuffer> all = unlocked(bytes, [&] { return bpe.encode_batch(views, allowed); });
  py::list result;
  for (IdBuffer& ids : all) {
    if (arrays) {
      result.append(to_array(std::move(ids)));
    } else {
      result.append(to_list(ids));
      ids = IdBuffer();
    }
  }
  return result;
}

int64_t to_id(py::handle item) {
  if (!PyIndex_Check(item.ptr())) {
    throw py::type_error(std::string("[decode] expected integer ids, got ") + Py_TYPE(item.ptr())->tp_name);
  }
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long id = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  return overflow ? -1 : id;
}

py::bytes decoded(const Bpe& bpe, std::string_view bytes) {
  if (bpe.drops_first_space() && !bytes.empty() && bytes[0] == ' ') bytes.remove_prefix(1);
  return py::bytes(bytes.data(), bytes.size());
}

py::bytes decode_list(const Bpe& bpe, const py::list& ids) {
  std::string bytes;
  for (py::handle item : ids) bytes += bpe.token_bytes(to_id(item));
  return decoded(bpe, bytes);
}

py::bytes decode_array(const Bpe& bpe, const py::array_t<int64_t, py::array::c_style>& ids) {
  std::string bytes;
  for (py::ssize_t i = 0; i < ids.size(); ++i) bytes += bpe.token_bytes(ids.data()[i]);
  return decoded(bpe, bytes);
}

std::vector<std::string> to_strings(const std::vector<py::bytes>& tokens) {
  return std::vector<std::string>(tokens.begin(), tokens.end());
}

std::vector<py::bytes> to_bytes(const std::vector<std::string>& strings) {
  return std::vector<py::bytes>(strings.begin(), strings.end());
}

// Reads the tokens and ids in the lines of a .tiktoken file, or None if there are other lines.
py::object read_ranks(const py::bytes& data) {
  py::list tokens, ids;
  const bool good = tok::each_rank(data, [&](const std::string& token, uint64_t id) {
    tokens.append(py::bytes(token));
    ids.append(id);
  });
  return good ? py::object(py::make_tuple(tokens, ids)) : py::none();
}

// Maps each character of an alphabet to its byte (alphabet[b] stands for byte b) and all others to -1.
std::vector<int16_t> bytes_of(const std::u32string& alphabet) {
  std::vector<int16_t> byte_of(1024, -1);
  for (size_t byte = 0; byte < alphabet.size(); ++byte) byte_of.at(alphabet[byte]) = static_cast<int16_t>(byte);
  return byte_of;
}

// Returns the bytes that characters of an alphabet stand for; empty for a text with other characters.
std::vector<py::bytes> unspell(const std::vector<py::str>& spellings, const std::u32string& alphabet) {
  const std::vector<int16_t> byte_of = bytes_of(alphabet);
  std::vector<py::bytes> tokens;
  tokens.reserve(spellings.size());
  std::string token;
  for (const py::str& spelling : spellings) {
    const int kind = PyUnicode_KIND(spelling.ptr());
    const void* data = PyUnicode_DATA(spelling.ptr());
    token.clear();
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(spelling.ptr()); ++i) {
      const Py_UCS4 c = PyUnicode_READ(kind, data, i);
      if (c >= byte_of.size() || byte_of[c] < 0) {
        token.clear();
        break;
      }
      token += static_cast<char>(byte_of[c]);
    }
    tokens.emplace_back(token);
  }
  return tokens;
}

// A byte-level vocabulary that was never a Python list.
using Parts = tok::JsonVocabulary::Parts;

void register_json_vocabulary(py::module_& m) {
  struct Held {
    py::bytes document;
    tok::JsonVocabulary vocabulary;
  };
  py::class_<Parts>(m, "VocabularyParts", "Tokens by id and merges by rank for BPE, which consumes them: usable once.");
  py::class_<Held>(m, "JsonVocabulary", "The vocabulary and the merges of a tokenizer.json.")
      .def_static(
          "read",
          [](const py::bytes& document) -> std::optional<Held> {
            const std::string_view text = document;
            auto found = unlocked(text.size(), [&] { return tok::JsonVocabulary::read(text); });
            if (!found) return std::nullopt;
            return Held{document, std::move(*found)};
          },
          py::arg("document"), "Returns None for a malformed document: json.loads can report why.")
      .def_property_readonly("size", [](const Held& h) { return h.vocabulary.size(); })
      .def(
          "find", [](const Held& h, const std::vector<std::string>& spellings) { return h.vocabulary.find(spellings); },
          py::arg("spellings"), "The ids of some spellings, or None.")
      .def_property_readonly(
          "rest", [](const Held& h) { return py::bytes(h.vocabulary.rest()); },
          "The document with null in place of both.")
      .def(
          "parts",
          [](const Held& h, const std::vector<std::pair<std::string, uint32_t>>& specials,
             const std::u32string& alphabet, size_t max_gap) {
            const std::vector<int16_t> byte_of = bytes_of(alphabet);
            std::vector<tok::Special> checked;
            for (const auto& [text, id] : specials) checked.push_back({text, id});
            py::gil_scoped_release release;
            return h.vocabulary.parts(checked, byte_of, max_gap);
          },
          py::arg("specials"), py::arg("alphabet"), py::arg("max_gap"),
          "Without the special tokens that are nothing else; None if anything is malformed.");
}

// Lets Python interrupt C++ work: Ctrl-C, and the progress callback, which may raise.
void report(const py::object& progress, size_t done, size_t total) {
  py::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  if (!progress.is_none()) progress(done, total);
}

void register_bpe(py::module_& m) {
  py::class_<Bpe>(m, "BPE", "A byte-level BPE vocabulary: immutable, used by any number of threads.")
      .def(py::init([](const std::vector<py::bytes>& tokens, const std::vector<tok::Merge>& merges,
                       const Pattern& pattern, bool whole_piece_first, const Specials& specials,
                       const Specials& always) {
             return new Bpe(to_strings(tokens), merges, to_splitter(pattern), whole_piece_first,
                            to_specials(specials, always));
           }),
           py::arg("tokens"), py::arg("merges"), py::arg("pattern"), py::arg("whole_piece_first"), py::arg("specials"),
           py::arg("always") = Specials())
      .def(py::init([](Parts& parts, const Pattern& pattern, bool whole_piece_first, const Specials& specials,
                       const Specials& always) {
             tok::Splitter splitter = to_splitter(pattern);
             std::vector<tok::Special> checked = to_specials(specials, always);
             py::gil_scoped_release release;
             return new Bpe(std::move(parts.tokens), parts.merges, std::move(splitter), whole_piece_first,
                            std::move(checked));
           }),
           py::arg("parts"), py::arg("pattern"), py::arg("whole_piece_first"), py::arg("specials"),
           py::arg("always") = Specials())
      .def_static(
          "from_ranks",
          [](const std::vector<py::bytes>& tokens, const Pattern& pattern, const Specials& specials,
             const Specials& always) {
            return std::unique_ptr<Bpe>(
                new Bpe(Bpe::from_ranks(to_strings(tokens), to_splitter(pattern), to_specials(specials, always))));
          },
          py::arg("tokens"), py::arg("pattern"), py::arg("specials"), py::arg("always") = Specials())
      .def(
          "encode",
          [](const Bpe& bpe, py::handle text, py::handle policy, bool normalized) {
            return to_list(encode(bpe, text, policy, normalized));
          },
          py::arg("text"), py::arg("specials"), py::arg("normalized") = false)
      .def(
          "encode_array",
          [](const Bpe& bpe, py::handle text, py::handle policy, bool normalized) {
            return to_array(encode(bpe, text, policy, normalized));
          },
          py::arg("text"), py::arg("specials"), py::arg("normalized") = false)
      .def(
          "raw_specials",
          [](const Bpe& bpe, const py::bytes& text, py::handle policy) {
            py::list found;
            for (const auto& [begin, end, id] : bpe.raw_specials(view_text(text, "encode"), to_allowed(policy)))
              found.append(py::make_tuple(begin, end, id));
            return found;
          },
          py::arg("text"), py::arg("specials"),
          "Where the special tokens that are looked for before text is normalized begin and end, and their ids.")
      .def("encode_offsets", &encode_offsets, py::arg("text"), py::arg("specials"))
      .def("count", &count, py::arg("text"), py::arg("specials"), py::arg("normalized") = false)
      .def("encode_batch", &encode_batch, py::arg("texts"), py::arg("specials"), py::arg("arrays"))
      .def("decode_list", &decode_list, py::arg("ids"))
      .def("decode_array", &decode_array, py::arg("ids"))
      .def(
          "token_bytes", [](const Bpe& bpe, py::handle id) { return py::bytes(bpe.token_bytes(to_id(id))); },
          py::arg("id"))
      .def_property_readonly("vocab_size", &Bpe::vocab_size)
      .def_property_readonly("drops_first_space", &Bpe::drops_first_space)
      .def_property_readonly(
          "ordinary_tokens", [](const Bpe& bpe) { return to_bytes(bpe.ordinary_tokens()); },
          "The tokens by id, without those that are special or added tokens alone.")
      .def_property_readonly("merges", &Bpe::merges)
      .def_property_readonly("specials",
                             [](const Bpe& bpe) {
                               py::dict ids;
                               for (const tok::Special& s : bpe.specials()) {
                                 if (!s.always) ids[py::str(s.text)] = s.id;
                               }
                               return ids;
                             })
      .def_property_readonly("pattern", [](const Bpe& bpe) { return to_pattern(bpe.splitter()); })
      .def_property_readonly("ends_at_line_ends", [](const Bpe& bpe) { return bpe.splitter().ends_at_line_ends(); })
      .def_property_readonly("whole_piece_first", &Bpe::whole_piece_first)
      .def_property_readonly("by_rank", &Bpe::by_rank)
      .def("merges_by_rank", &Bpe::merges_by_rank, "Whether tiktoken's rule gives the same ids.");
}

tok::SentencePieceRules::Prefix to_prefix(const std::string& name) {
  using Prefix = tok::SentencePieceRules::Prefix;
  if (name == "never") return Prefix::kNever;
  if (name == "first") return Prefix::kFirst;
  if (name == "always") return Prefix::kAlways;
  throw std::invalid_argument("[tokenizer] expected prefix to be one of never, first, always, got '" + name + "'");
}

void register_sentencepiece(py::module_& m) {
  py::class_<tok::SentencePieceBpe, Bpe>(m, "SentencePieceBPE", "A SentencePiece-style BPE vocabulary.")
      .def(py::init([](const std::vector<py::bytes>& tokens, const std::vector<tok::Merge>& merges,
                       const std::vector<float>& scores, std::vector<uint32_t> byte_tokens,
                       std::optional<uint32_t> unknown, bool fuse_unknown, const std::string& prefix,
                       bool prefix_unless_space, bool split_at_spaces, bool drop_first_space, const Specials& symbols,
                       const Specials& added, const Specials& specials) {
             tok::SentencePieceRules rules;
             rules.byte_tokens = std::move(byte_tokens);
             if (unknown) rules.unknown = *unknown;
             rules.fuse_unknown = fuse_unknown;
             rules.prefix = to_prefix(prefix);
             rules.prefix_unless_space = prefix_unless_space;
             rules.split_at_spaces = split_at_spaces;
             rules.drop_first_space = drop_first_space;
             rules.symbols = to_specials(symbols);
             return new tok::SentencePieceBpe(to_strings(tokens), merges, scores, std::move(rules),
                                              to_specials(specials, added));
           }),
           py::kw_only(), py::arg("tokens"), py::arg("merges"), py::arg("scores"), py::arg("byte_tokens"),
           py::arg("unknown"), py::arg("fuse_unknown"), py::arg("prefix"), py::arg("prefix_unless_space"),
           py::arg("split_at_spaces"), py::arg("drop_first_space"), py::arg("symbols"), py::arg("added_tokens"),
           py::arg("special_tokens"))
      .def_property_readonly("has_ties", &tok::SentencePieceBpe::has_ties)
      .def_property_readonly("has_fragments", &tok::SentencePieceBpe::has_fragments);
}

void register_trainer(py::module_& m) {
  using tok::PieceCounter;
  py::class_<PieceCounter>(m, "BPETrainer", "Counts the pieces of the texts it is fed, then trains on the counts.")
      .def(py::init([](const Pattern& pattern, std::vector<std::string> specials) {
             return new PieceCounter(to_splitter(pattern), std::move(specials));
           }),
           py::arg("pattern"), py::arg("specials"))
      .def(
          "feed",
          [](PieceCounter& counter, const py::list& texts) {
            std::vector<tok::Text> views;
            std::vector<py::object> owners;  // another thread may change the list meanwhile
            for (py::handle text : texts) {
              const View view = view_text(text, "train");
              views.push_back({view.data, view.size});
              owners.push_back(py::reinterpret_borrow<py::object>(text));
            }
            py::gil_scoped_release unlocked;
            counter.feed(views, [](size_t) {});
          },
          py::arg("texts"), "Counts the pieces of some texts, on the threads of the pool.")
      .def(
          "feed_buffer",
          [](PieceCounter& counter, const py::buffer& buffer, const py::object& progress) {
            const py::buffer_info info = buffer.request();
            const size_t size = static_cast<size_t>(info.size * info.itemsize);
            py::gil_scoped_release unlocked;
            counter.feed({{static_cast<const uint8_t*>(info.ptr), size}},
                         [&](size_t done) { report(progress, done, size); });
          },
          py::arg("buffer"), py::arg("progress"),
          "The same for a contiguous buffer, such as a memory-mapped file; progress(bytes done, bytes) may be None.")
      .def_property_readonly("num_pieces", &PieceCounter::size)
      .def_property_readonly("ends_at_line_ends",
                             [](const PieceCounter& counter) { return counter.splitter().ends_at_line_ends(); })
      .def(
          "train",
          [](PieceCounter& counter, size_t num_tokens, const py::object& progress) {
            tok::TrainedVocabulary trained;
            {
              py::gil_scoped_release unlocked;
              trained = tok::train_bpe(counter.take(), num_tokens,
                                       [&](size_t done, size_t total) { report(progress, done, total); });
            }
            return py::make_tuple(to_bytes(trained.tokens), trained.merges);
          },
          py::arg("num_tokens"), py::arg("progress"), "Returns (tokens, merges) and discards the pieces.");
}

}  // namespace

void register_tokenizer(py::module_& m) {
  register_json_vocabulary(m);
  register_bpe(m);
  register_sentencepiece(m);
  register_trainer(m);
  m.def(
      "unicode_class",
      [](uint32_t code_point) { return code_point < 0x110000 ? tok::char_class(code_point) : uint8_t{0}; },
      py::arg("code_point"), "The class bits of a code point, as in csrc/tokenizer/unicode/tables.h.");
  m.def("read_ranks", &read_ranks, py::arg("data"),
        "Returns the tokens and ids in the lines of a .tiktoken file, or None if there are other lines.");
  m.def("unspell", &unspell, py::arg("spellings"), py::arg("alphabet"),
        "Returns the bytes that the characters of texts stand for in an alphabet; b\"\" if there are others.");
  m.def("check_pattern", &tok::check_stage, py::arg("stage"),
        "Raises ValueError unless this is a pattern's name, or an expression that all engines read alike.");
  m.def(
      "split",
      [](const Pattern& pattern, py::handle text) {
        const View view = view_text(text, "split");
        std::vector<py::bytes> pieces;
        to_splitter(pattern).scan(view.data, view.data + view.size, [&](const uint8_t* begin, const uint8_t* end) {
          pieces.emplace_back(reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin));
        });
        return pieces;
      },
      py::arg("pattern"), py::arg("text"), "Returns the pieces that a pattern cuts a text into.");
}

}  // namespace llmcore

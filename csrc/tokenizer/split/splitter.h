// How text is cut into pieces: by a named pattern, by a regular expression, or by several of these in stages, each of
// which cuts the previous stage's pieces and treats their ends as the text's end. Cheap to copy; any number of threads
// may use one.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/split/patterns.h"
#include "tokenizer/split/regex.h"
#include "tokenizer/split/scanner.h"

namespace llmcore::tok {

// Throws std::invalid_argument unless a stage is a pattern's name, or an expression of the common dialect.
void check_stage(const std::string& stage);

class Splitter {
 public:
  Splitter() = default;  // without stages, for a vocabulary that cuts text by its own rules
  // Each stage is a pattern's name or a regular expression. Throws std::invalid_argument.
  explicit Splitter(std::vector<std::string> stages);

  const std::vector<std::string>& stages() const { return names_; }

  // Whether a piece ends at every line end between a non-space ASCII character and an ASCII letter or digit.
  bool ends_at_line_ends() const { return ends_at_line_ends_; }

  // Calls visit(begin, end) for every piece of [p, end), in order.
  template <class Visit>
  void scan(const uint8_t* p, const uint8_t* end, Visit&& visit) const {
    if (stages_.size() == 1) return stages_[0].scan(p, end, visit);
    const auto call = [](void* context, const uint8_t* begin, const uint8_t* piece_end) {
      (*static_cast<std::remove_reference_t<Visit>*>(context))(begin, piece_end);
    };
    scan_stages(0, p, end, {call, &visit});
  }

 private:
  struct Stage {
    Pattern pattern;                     // used unless there is a regex
    std::shared_ptr<const Regex> regex;  // or nullptr
    template <class Visit>
    void scan(const uint8_t* p, const uint8_t* end, Visit&& visit) const {
      regex ? regex->scan(p, end, visit) : tok::scan(pattern, p, end, visit);
    }
  };
  struct Visitor {
    void (*call)(void* context, const uint8_t* begin, const uint8_t* end);
    void* context;
  };

  void scan_stages(size_t stage, const uint8_t* p, const uint8_t* end, Visitor visitor) const;

  std::vector<std::string> names_;
  std::vector<Stage> stages_;
  bool ends_at_line_ends_ = false;
};

}  // namespace llmcore::tok

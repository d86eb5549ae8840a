#include "tokenizer/split/splitter.h"

#include <algorithm>
#include <stdexcept>

namespace llmcore::tok {
namespace {

constexpr size_t kMaxStages = 16;

// A pattern of word characters only is treated as an unknown name: hardly anybody wants to cut at one word.
bool looks_like_name(const std::string& text) {
  return text.size() != 1 && text.size() <= 40 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
                  c == '.';
         });
}

void check_name(const std::string& stage) {
  if (looks_like_name(stage))
    throw std::invalid_argument("[tokenizer] expected pattern to be one of " + pattern_names() +
                                ", or a regular expression, got '" + stage + "'");
}

}  // namespace

void check_stage(const std::string& stage) {
  if (pattern_from_name(stage)) return;
  check_name(stage);
  Regex(stage, Dialect::kCommon);
}

Splitter::Splitter(std::vector<std::string> stages) : names_(std::move(stages)) {
  if (names_.empty() || names_.size() > kMaxStages) {
    throw std::invalid_argument("[tokenizer] expected a pattern of 1 to 16 stages, got " +
                                std::to_string(names_.size()));
  }
  for (const std::string& name : names_) {
    const auto known = pattern_from_name(name);
    if (known) {
      stages_.push_back({*known, nullptr});
    } else {
      check_name(name);
      stages_.push_back({Pattern::kGpt2, std::make_shared<const Regex>(name, Dialect::kOniguruma)});
    }
  }
  const Stage& only = stages_[0];
  ends_at_line_ends_ = stages_.size() == 1 && (!only.regex || only.regex->ends_at_line_ends());
}

void Splitter::scan_stages(size_t stage, const uint8_t* p, const uint8_t* end, Visitor visitor) const {
  stages_[stage].scan(p, end, [&](const uint8_t* begin, const uint8_t* piece_end) {
    if (stage + 1 == stages_.size()) {
      visitor.call(visitor.context, begin, piece_end);
    } else {
      scan_stages(stage + 1, begin, piece_end, visitor);
    }
  });
}

}  // namespace llmcore::tok

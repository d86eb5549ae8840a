#include "tokenizer/patterns.h"

#include <stdexcept>

namespace llmcore::tok {
namespace {

struct Named {
  Pattern pattern;
  const char* name;
};

constexpr Named kPatterns[] = {
    {Pattern::kGpt2, "gpt2"},   {Pattern::kCl100k, "cl100k"}, {Pattern::kLlama3, "llama3"},
    {Pattern::kQwen2, "qwen2"}, {Pattern::kO200k, "o200k"},   {Pattern::kSmollm, "smollm"},
};

}  // namespace

Pattern pattern_from_name(const std::string& name) {
  std::string known;
  for (const Named& entry : kPatterns) {
    if (name == entry.name) return entry.pattern;
    known += std::string(known.empty() ? "" : ", ") + entry.name;
  }
  throw std::invalid_argument("[tokenizer] expected pattern to be one of " + known + ", got '" + name +
                              "' (regular expressions of your own are not supported yet)");
}

const char* pattern_name(Pattern pattern) {
  for (const Named& entry : kPatterns) {
    if (pattern == entry.pattern) return entry.name;
  }
  throw std::logic_error("[tokenizer] a pattern without a name");
}

}  // namespace llmcore::tok

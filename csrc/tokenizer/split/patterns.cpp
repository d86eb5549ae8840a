#include "tokenizer/split/patterns.h"

namespace llmcore::tok {
namespace {

struct Named {
  Pattern pattern;
  const char* name;
};

constexpr Named kPatterns[] = {
    {Pattern::kGpt2, "gpt2"},   {Pattern::kCl100k, "cl100k"}, {Pattern::kLlama3, "llama3"},
    {Pattern::kQwen2, "qwen2"}, {Pattern::kQwen35, "qwen35"}, {Pattern::kNanochat, "nanochat"},
    {Pattern::kO200k, "o200k"}, {Pattern::kSmollm, "smollm"}, {Pattern::kDeepseek, "deepseek"},
};

}  // namespace

std::optional<Pattern> pattern_from_name(const std::string& name) {
  for (const Named& entry : kPatterns) {
    if (name == entry.name) return entry.pattern;
  }
  return std::nullopt;
}

std::string pattern_names() {
  std::string names;
  for (const Named& entry : kPatterns) names += std::string(names.empty() ? "" : ", ") + entry.name;
  return names;
}

}  // namespace llmcore::tok

// The named split patterns: how text is cut into pieces before any merge. Pieces never share a token.
#pragma once
#include <optional>
#include <string>

namespace llmcore::tok {

enum class Pattern { kGpt2, kCl100k, kLlama3, kQwen2, kQwen35, kNanochat, kO200k, kSmollm, kDeepseek };

std::optional<Pattern> pattern_from_name(const std::string& name);
// All names, for messages.
std::string pattern_names();

}  // namespace llmcore::tok

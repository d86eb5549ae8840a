// The named split patterns: how text is cut into pieces before any merge. Pieces never share a token.
#pragma once
#include <string>

namespace llmcore::tok {

enum class Pattern { kGpt2, kCl100k, kLlama3, kQwen2, kO200k, kSmollm };

// Throws std::invalid_argument that lists the known names.
Pattern pattern_from_name(const std::string& name);
const char* pattern_name(Pattern pattern);

}  // namespace llmcore::tok

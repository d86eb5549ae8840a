// General categories and scripts of Unicode 16 as lists of ranges, for compiling patterns (split/regex.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace llmcore::tok {

constexpr size_t kNumCategories = 30;
extern const char* const kCategoryNames[kNumCategories];  // "Lu", "Ll", ...

// The runs of code points of one category, each as its first code point << 5 | the category's number, ascending.
extern const size_t kNumCategoryRuns;
extern const uint32_t kCategoryRuns[];

struct Script {
  const char* name;
  const uint32_t* bounds;  // the first code point of a range, the first after it, and so on
  size_t num_bounds;
};
extern const size_t kNumScripts;
extern const Script kScripts[];

}  // namespace llmcore::tok

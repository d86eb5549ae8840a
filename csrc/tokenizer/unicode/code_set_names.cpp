// The names that Oniguruma has for sets: Unicode's general categories and scripts, and POSIX's classes.
#include <algorithm>
#include <string_view>

#include "tokenizer/unicode/code_set.h"
#include "tokenizer/unicode/sets.h"

namespace llmcore::tok {
namespace {

struct Name {
  const char* name;
  const char* category;
};

constexpr Name kLongNames[] = {
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
};

// Without case, spaces, hyphens and underscores, which names are compared without.
std::string bare(std::string_view name) {
  std::string result;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    result += c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  }
  return result;
}

CodeSet category(const char* name) { return *CodeSet::property(name); }
CodeSet latin(uint32_t first, uint32_t last) { return CodeSet::range(first, last); }

// Letters that are no letters by category: circled and squared ones, and Roman numerals.
CodeSet enclosed_upper() {
  return latin(0x2160, 0x216F) | latin(0x24B6, 0x24CF) | latin(0x1F130, 0x1F149) | latin(0x1F150, 0x1F169) |
         latin(0x1F170, 0x1F189);
}

CodeSet lowercase() {
  CodeSet set = category("Ll");
  for (const auto& [first, last] : {std::pair<uint32_t, uint32_t>{0xAA, 0xAA},
                                    {0xBA, 0xBA},
                                    {0x2B0, 0x2B8},
                                    {0x2C0, 0x2C1},
                                    {0x2E0, 0x2E4},
                                    {0x345, 0x345},
                                    {0x37A, 0x37A},
                                    {0x10FC, 0x10FC},
                                    {0x1D2C, 0x1D6A},
                                    {0x1D78, 0x1D78},
                                    {0x1D9B, 0x1DBF},
                                    {0x2071, 0x2071},
                                    {0x207F, 0x207F},
                                    {0x2090, 0x209C},
                                    {0x2170, 0x217F},
                                    {0x24D0, 0x24E9},
                                    {0x2C7C, 0x2C7D},
                                    {0xA69C, 0xA69D},
                                    {0xA770, 0xA770},
                                    {0xA7F2, 0xA7F4},
                                    {0xA7F8, 0xA7F9},
                                    {0xAB5C, 0xAB5F},
                                    {0xAB69, 0xAB69},
                                    {0x10780, 0x10780},
                                    {0x10783, 0x10785},
                                    {0x10787, 0x107B0},
                                    {0x107B2, 0x107BA},
                                    {0x1E030, 0x1E06D}}) {
    set = set | latin(first, last);
  }
  return set;
}

CodeSet alphabetic() { return category("L") | category("Nl") | CodeSet::other_alphabetic(); }

}  // namespace

std::optional<CodeSet> CodeSet::posix(const std::string& name) {
  if (name == "alpha") return alphabetic();
  if (name == "upper") return category("Lu") | enclosed_upper();
  if (name == "lower") return lowercase();
  if (name == "digit") return category("Nd");
  if (name == "alnum") return alphabetic() | category("Nd");
  if (name == "space") return space();
  if (name == "blank") return category("Zs") | latin('\t', '\t');
  if (name == "cntrl") return category("Cc");
  if (name == "punct") return category("P") | category("S");
  if (name == "print")
    return ~(category("Cc") | category("Cn") | category("Cs") | category("Zl") | category("Zp") |
             latin(kIllFormedCode, kIllFormedCode));
  if (name == "graph")
    return ~(space() | category("Cc") | category("Cn") | category("Cs") | latin(kIllFormedCode, kIllFormedCode));
  if (name == "word") return alphabetic() | category("M") | category("Nd") | category("Pc");
  if (name == "xdigit") return latin('0', '9') | latin('A', 'F') | latin('a', 'f');
  if (name == "ascii") return latin(0, 127);
  return std::nullopt;
}

std::optional<CodeSet> CodeSet::named(const std::string& name) {
  const std::string wanted = bare(name);
  for (const Name& entry : kLongNames) {
    if (wanted == entry.name) return property(entry.category);
  }
  for (const char* known : kCategoryNames) {
    if (wanted == bare(known)) return property(known);
    if (wanted == bare(std::string(known).substr(0, 1))) return property(std::string(known).substr(0, 1));
  }
  for (size_t i = 0; i < kNumScripts; ++i) {
    if (wanted == bare(kScripts[i].name)) return property(kScripts[i].name);
  }
  if (wanted == "lc" || wanted == "casedletter") return category("Lu") | category("Ll") | category("Lt");
  if (wanted == "any") return ~CodeSet();
  if (wanted == "assigned") return ~(category("Cn") | latin(kIllFormedCode, kIllFormedCode));
  if (wanted == "punct") return category("P");
  if (wanted == "word") return word();
  if (wanted == "alphabetic") return alphabetic();
  if (wanted == "uppercase") return posix("upper");
  if (wanted == "lowercase") return posix("lower");
  if (wanted == "whitespace") return space();
  return posix(wanted);
}

}  // namespace llmcore::tok

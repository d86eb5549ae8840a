// Errors. Every op reports bad input as one line, `[op] expected ..., got ...`; the bindings turn them into ValueError
// and TypeError.
#pragma once
#include <stdexcept>
#include <string>

namespace llmcore {

struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(const char* op, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(std::string("[") + op + "] expected " + expected + ", got " + got);
}

[[noreturn]] inline void fail_type(const char* op, const std::string& expected, const std::string& got) {
  throw TypeError(std::string("[") + op + "] expected " + expected + ", got " + got);
}

}  // namespace llmcore

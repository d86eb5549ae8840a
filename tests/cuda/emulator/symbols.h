// Information from this library's symbol table: the names of kernels and the places of their __shared__ variables.
#pragma once
#include <string>
#include <vector>

#include "engine.h"

namespace llmcore_emulator {

LLMCORE_EMULATOR_LOCAL std::string function_name(const void* function);

struct SharedVariable {
  unsigned char* at;
  size_t bytes;
};

// The __shared__ variables of a kernel and of the functions it calls, to be filled with garbage before each block. The
// kernel's own are identified by name; the others are those that a launch has written to.
class LLMCORE_EMULATOR_LOCAL SharedUse {
 public:
  explicit SharedUse(const void* kernel);
  ~SharedUse();
  const std::vector<SharedVariable>& variables() const;

 private:
  struct Kernel* kernel_;
};
LLMCORE_EMULATOR_LOCAL bool is_shared(const void*);                 // of any kernel
LLMCORE_EMULATOR_LOCAL size_t shared_bytes_of(const void* kernel);  // as far as known

}  // namespace llmcore_emulator

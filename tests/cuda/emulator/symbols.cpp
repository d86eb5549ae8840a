#include "symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <unordered_map>

namespace llmcore_emulator {

struct Kernel {
  std::vector<SharedVariable> variables;
  size_t launches = 0;
};

namespace {

constexpr const char* kTag = "B14llmcore_shared";  // the ABI tag that __shared__ adds (cuda_runtime.h)
constexpr unsigned char kGarbage = 0xff;

struct Function {
  uintptr_t at;
  std::string name;
};
struct Variable {
  SharedVariable place;
  std::string name;
};

struct Symbols {
  std::vector<Function> functions;  // by address
  std::vector<Variable> shared;
  std::unordered_map<const void*, Kernel> kernels;
  Symbols();
};

Symbols& symbols() {
  static Symbols* const s = new Symbols;
  return *s;
}

struct Module {  // the module that contains an address
  uintptr_t address, base = 0;
  std::string path;
};
int find_module(dl_phdr_info* info, size_t, void* data) {
  Module& m = *static_cast<Module*>(data);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || m.address - info->dlpi_addr - part.p_vaddr >= part.p_memsz) continue;
    m.base = info->dlpi_addr;
    m.path = info->dlpi_name && *info->dlpi_name ? info->dlpi_name : "/proc/self/exe";
    return 1;
  }
  return 0;
}

// Reads symbols from the file: the loader keeps only exported names. Without a symbol table there are none.
Symbols::Symbols() {
  Module module{reinterpret_cast<uintptr_t>(&kTag), 0, {}};
  if (!dl_iterate_phdr(find_module, &module)) return;
  std::ifstream file(module.path, std::ios::binary);
  ElfW(Ehdr) header{};
  const auto read = [&](uint64_t at, void* to, size_t bytes) {
    return bool(
        file.seekg(static_cast<std::streamoff>(at)).read(static_cast<char*>(to), static_cast<std::streamsize>(bytes)));
  };
  if (!read(0, &header, sizeof header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG)) return;
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  if (!read(header.e_shoff, sections.data(), sections.size() * sizeof sections[0])) return;
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    const auto& names = sections[section.sh_link];
    std::vector<ElfW(Sym)> entries(section.sh_size / sizeof(ElfW(Sym)));
    std::vector<char> text(names.sh_size + 1);
    if (!read(section.sh_offset, entries.data(), entries.size() * sizeof entries[0]) ||
        !read(names.sh_offset, text.data(), names.sh_size))
      return;
    for (const auto& e : entries) {
      if (e.st_shndx == SHN_UNDEF || e.st_name >= names.sh_size) continue;
      const uintptr_t at = module.base + e.st_value;
      const char* const name = text.data() + e.st_name;
      const int type = ELF64_ST_TYPE(e.st_info);
      if (type == STT_FUNC)
        functions.push_back({at, name});
      else if (type == STT_OBJECT && e.st_size && std::strstr(name, kTag))
        shared.push_back({{reinterpret_cast<unsigned char*>(at), e.st_size}, name});
    }
  }
  std::sort(functions.begin(), functions.end(), [](const Function& a, const Function& b) { return a.at < b.at; });
  for (const Variable& v : shared) std::memset(v.place.at, kGarbage, v.place.bytes);
}

const Function* find_function(const void* function) {
  const std::vector<Function>& all = symbols().functions;
  const uintptr_t at = reinterpret_cast<uintptr_t>(function);
  const auto found =
      std::lower_bound(all.begin(), all.end(), at, [](const Function& f, uintptr_t address) { return f.at < address; });
  return found != all.end() && found->at == at ? &*found : nullptr;
}

bool untouched(const SharedVariable& v) {
  if (v.at[0] != kGarbage) return false;
  return !std::memcmp(v.at, v.at + 1, v.bytes - 1);  // all bytes equal the first
}

// The names of a kernel's variables contain the kernel's name: _ZN1a6kernelEv's is _ZZN1a6kernelEvE4name.
Kernel& kernel_of(const void* function) {
  Symbols& s = symbols();
  const auto found = s.kernels.find(function);
  if (found != s.kernels.end()) return found->second;
  Kernel& kernel = s.kernels[function];
  const Function* const f = find_function(function);
  if (!f || f->name.compare(0, 2, "_Z")) return kernel;
  const std::string prefix = "_Z" + f->name.substr(1) + "E";
  for (const Variable& v : s.shared)
    if (!v.name.compare(0, prefix.size(), prefix)) kernel.variables.push_back(v.place);
  return kernel;
}

}  // namespace

std::string function_name(const void* function) {
  const Function* const f = find_function(function);
  if (!f) {
    char text[32];
    std::snprintf(text, sizeof text, "at %p", function);
    return text;
  }
  int status = 0;
  char* const demangled = abi::__cxa_demangle(f->name.c_str(), nullptr, nullptr, &status);
  const std::string name = demangled ? demangled : f->name;
  std::free(demangled);
  return name;
}

SharedUse::SharedUse(const void* kernel) : kernel_(&kernel_of(kernel)) {}

// Checking all variables takes longer than many launches do, so not every launch checks them.
SharedUse::~SharedUse() {
  for (const SharedVariable& v : kernel_->variables) std::memset(v.at, kGarbage, v.bytes);
  const size_t n = kernel_->launches++;
  if (n & (n - 1)) return;
  for (const Variable& v : symbols().shared)
    if (!untouched(v.place)) {
      kernel_->variables.push_back(v.place);
      std::memset(v.place.at, kGarbage, v.place.bytes);
    }
}

const std::vector<SharedVariable>& SharedUse::variables() const { return kernel_->variables; }

bool is_shared(const void* p) {
  const unsigned char* const at = static_cast<const unsigned char*>(p);
  if (at >= dynamic_shared && at < dynamic_shared + kMostShared) return true;
  for (const Variable& v : symbols().shared)
    if (at >= v.place.at && at < v.place.at + v.place.bytes) return true;
  return false;
}

size_t shared_bytes_of(const void* kernel) {
  size_t bytes = 0;
  for (const SharedVariable& v : kernel_of(kernel).variables) bytes += v.bytes;
  return bytes;
}

}  // namespace llmcore_emulator

#include "cuda/gemm/blas.cuh"

#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cuda/gemm/cublaslt.h"

namespace llmcore {
namespace cuda {
namespace {

using namespace cublaslt;

constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
constexpr size_t kScratchBytes = size_t{1} << 20;  // at the end of the workspace, not cuBLASLt's
constexpr size_t kMostPlans = 4096;                // prompts of arbitrary length would keep adding plans

// ---- the library ----------------------------------------------------------------------------------

struct Library {
  Functions call{};
  Context* context = nullptr;
  std::string missing;  // or why the library is missing

  explicit Library(const std::string& paths);
  bool load(void* handle);
};

template <class Function>
bool find(void* handle, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(handle, name));
  return function != nullptr;
}

bool Library::load(void* handle) {
  Functions f{};
  const bool all = find(handle, "cublasLtCreate", f.cublasLtCreate) &&
                   find(handle, "cublasLtGetVersion", f.cublasLtGetVersion) &&
                   find(handle, "cublasLtMatmulDescCreate", f.cublasLtMatmulDescCreate) &&
                   find(handle, "cublasLtMatmulDescDestroy", f.cublasLtMatmulDescDestroy) &&
                   find(handle, "cublasLtMatmulDescSetAttribute", f.cublasLtMatmulDescSetAttribute) &&
                   find(handle, "cublasLtMatrixLayoutCreate", f.cublasLtMatrixLayoutCreate) &&
                   find(handle, "cublasLtMatrixLayoutDestroy", f.cublasLtMatrixLayoutDestroy) &&
                   find(handle, "cublasLtMatmulPreferenceCreate", f.cublasLtMatmulPreferenceCreate) &&
                   find(handle, "cublasLtMatmulPreferenceDestroy", f.cublasLtMatmulPreferenceDestroy) &&
                   find(handle, "cublasLtMatmulPreferenceSetAttribute", f.cublasLtMatmulPreferenceSetAttribute) &&
                   find(handle, "cublasLtMatmulAlgoGetHeuristic", f.cublasLtMatmulAlgoGetHeuristic) &&
                   find(handle, "cublasLtMatmul", f.cublasLtMatmul);
  if (all) call = f;
  return all;
}

// Returns null if it cannot be opened; if the file exists, appends the reason to `why`.
void* open_file(const std::string& path, std::string& why) {
  if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
  const char* const reason = dlerror();
  struct stat found{};
  if (reason && !stat(path.c_str(), &found) && S_ISREG(found.st_mode)) why = reason;
  return nullptr;
}

// A path may name the file or its folder.
void* open_library(const std::string& paths, std::string& why) {
  for (size_t begin = 0; begin < paths.size();) {
    const size_t end = std::min(paths.find(':', begin), paths.size());
    const std::string path = paths.substr(begin, end - begin);
    begin = end + 1;
    if (path.empty()) continue;
    for (const char* name : kNames)
      if (void* handle = open_file(path + "/" + name, why)) return handle;
    if (void* handle = open_file(path, why)) return handle;
  }
  for (const char* name : kNames)
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return handle;
  return nullptr;
}

Library::Library(const std::string& paths) {
  std::string why;
  void* handle = open_library(paths, why);
  if (!handle && !why.empty())
    missing = "cuBLASLt cannot be opened: " + why;
  else if (!handle)
    missing =
        "cuBLASLt was not found: pip install nvidia-cublas, or put the folder of libcublasLt.so.13 into "
        "LD_LIBRARY_PATH";
  else if (!load(handle))
    missing = "the library found as cuBLASLt lacks the expected functions";
  else if (call.cublasLtCreate(&context) != kSuccess)
    missing = "cuBLASLt does not start on this device";
}

struct State {
  std::mutex mutex;
  std::string paths;
};
State& state() {
  static State* s = new State;  // never destroyed: others may still work when the process ends
  return *s;
}
Library& library() {
  static Library* l = new Library(state().paths);
  return *l;
}

// ---- plans ----------------------------------------------------------------------------------------

struct Plan {  // how one kind of product is done; layouts are cuBLASLt's, column-major
  Description* description = nullptr;
  Layout *b = nullptr, *a = nullptr, *out = nullptr;
  Algorithm algorithm{};
  bool supported = false;
};

using Key = std::array<int64_t, 7>;  // everything that determines the plan
struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 0;
    for (int64_t x : key) h = (h ^ static_cast<uint64_t>(x)) * 0x9e3779b97f4a7c15u, h ^= h >> 32;
    return static_cast<size_t>(h);
  }
};

uint32_t alignment(const void* p) {  // cuBLASLt distinguishes alignments up to 256 bytes
  const uint64_t address = reinterpret_cast<uintptr_t>(p) | 256u;
  return static_cast<uint32_t>(address & (~address + 1));
}

Key key_of(const BlasProduct& g, const void* bias) {  // bias: as passed to cuBLASLt
  int64_t kind = 0, alignments = 0;
  for (bool bit : {g.a_transposed, g.b_transposed, g.dtype == DType::kBF16, g.out_dtype == DType::kBF16,
                   bias != nullptr, g.gelu, g.pre_activation != nullptr})
    kind = 2 * kind + bit;
  for (const void* p :
       {g.a, g.b, static_cast<const void*>(g.out), g.added, bias, static_cast<const void*>(g.pre_activation)})
    alignments = 512 * alignments + alignment(p);
  return {g.M, g.N, g.K, g.lda, g.ldo, kind, alignments};
}

int type_of(DType t) { return t == DType::kBF16 ? kReal16BF : kReal32F; }

template <class Attribute, class Owner, class Value>
bool set(Status (*function)(Owner*, Attribute, const void*, size_t), Owner* owner, Attribute attribute,
         const Value& value) {
  return function(owner, attribute, &value, sizeof value) == kSuccess;
}

// cuBLASLt's columns are our rows: it computes out^T (N,M) = b^T a^T, where a matrix that is row-major for us needs no
// transpose. With a single column the stride is irrelevant, but cuBLASLt requires it to be at least as long as a
// column.
bool describe(const Functions& call, const BlasProduct& g, const void* bias, Plan& plan) {
  using A = DescriptionAttribute;
  const uint64_t M = static_cast<uint64_t>(g.M), N = static_cast<uint64_t>(g.N), K = static_cast<uint64_t>(g.K);
  const int type = type_of(g.dtype), out_type = type_of(g.out_dtype);
  const uint64_t a_rows = g.a_transposed ? M : K, a_columns = g.a_transposed ? K : M;
  const uint64_t b_rows = g.b_transposed ? K : N, b_columns = g.b_transposed ? N : K;
  const int64_t lda = a_columns == 1 ? static_cast<int64_t>(a_rows) : g.lda;
  const int64_t ldo = M == 1 ? g.N : g.ldo;
  const auto set_description = [&](A attribute, auto value) {
    return set(call.cublasLtMatmulDescSetAttribute, plan.description, attribute, value);
  };
  uint32_t epilogue = 0;
  if (bias) epilogue |= kEpilogueBias;
  if (g.gelu) epilogue |= kEpilogueGelu;
  if (g.pre_activation) epilogue |= kEpilogueAux;
  bool ok =
      call.cublasLtMatmulDescCreate(&plan.description, kCompute32F, kReal32F) == kSuccess &&
      call.cublasLtMatrixLayoutCreate(&plan.b, type, b_rows, b_columns, static_cast<int64_t>(b_rows)) == kSuccess &&
      call.cublasLtMatrixLayoutCreate(&plan.a, type, a_rows, a_columns, lda) == kSuccess &&
      call.cublasLtMatrixLayoutCreate(&plan.out, out_type, N, M, ldo) == kSuccess &&
      set_description(A::kTransA, g.b_transposed ? kTransposed : kAsStored) &&
      set_description(A::kTransB, g.a_transposed ? kTransposed : kAsStored) &&
      set_description(A::kEpilogue, epilogue ? epilogue : kEpilogueDefault);
  if (bias) ok = ok && set_description(A::kBias, bias) && set_description(A::kBiasType, int32_t{out_type});
  if (g.pre_activation)
    ok = ok && set_description(A::kAux, g.pre_activation) && set_description(A::kAuxLd, ldo) &&
         set_description(A::kAuxType, int32_t{out_type});
  return ok;
}

bool choose_algorithm(const Library& lib, const BlasProduct& g, size_t workspace_bytes, Plan& plan) {
  using P = PreferenceAttribute;
  const Functions& call = lib.call;
  Preference* preference = nullptr;
  if (call.cublasLtMatmulPreferenceCreate(&preference) != kSuccess) return false;
  const auto set_preference = [&](P attribute, auto value) {
    return set(call.cublasLtMatmulPreferenceSetAttribute, preference, attribute, value);
  };
  Heuristic found{};
  int count = 0;
  const bool ok = set_preference(P::kWorkspaceBytes, uint64_t{workspace_bytes}) &&
                  set_preference(P::kReductionSchemes, kReductionComputeType) &&
                  set_preference(P::kAlignmentA, alignment(g.b)) && set_preference(P::kAlignmentB, alignment(g.a)) &&
                  set_preference(P::kAlignmentC, alignment(g.added ? g.added : g.out)) &&
                  set_preference(P::kAlignmentD, alignment(g.out)) &&
                  call.cublasLtMatmulAlgoGetHeuristic(lib.context, plan.description, plan.b, plan.a, plan.out, plan.out,
                                                      preference, 1, &found, &count) == kSuccess &&
                  count > 0 && found.state == kSuccess;
  call.cublasLtMatmulPreferenceDestroy(preference);
  plan.algorithm = found.algorithm;
  return ok;
}

void destroy(const Functions& call, Plan& plan) {
  if (plan.description) call.cublasLtMatmulDescDestroy(plan.description);
  for (Layout* layout : {plan.a, plan.b, plan.out})
    if (layout) call.cublasLtMatrixLayoutDestroy(layout);
  plan.description = nullptr, plan.a = plan.b = plan.out = nullptr;
}

Plan& plan_of(const Library& lib, const BlasProduct& g, const void* bias, size_t workspace_bytes) {
  static auto* plans = new std::unordered_map<Key, Plan, KeyHash>;
  const Key key = key_of(g, bias);
  const auto found = plans->find(key);
  if (found != plans->end()) return found->second;
  if (plans->size() >= kMostPlans) {
    for (auto& [_, plan] : *plans) destroy(lib.call, plan);
    plans->clear();
  }
  Plan& plan = (*plans)[key];
  plan.supported = describe(lib.call, g, bias, plan) && choose_algorithm(lib, g, workspace_bytes, plan);
  if (!plan.supported) destroy(lib.call, plan);
  return plan;
}

// The part for cuBLASLt, followed by the scratch memory.
char* workspace(size_t* bytes) {
  char* p = static_cast<char*>(blas_workspace(bytes));
  if (!p) *bytes = 0;
  *bytes -= std::min(*bytes, kScratchBytes);
  return p;
}

}  // namespace

void set_blas_paths(const char* paths) {
  std::lock_guard<std::mutex> lock(state().mutex);
  state().paths = paths ? paths : "";
}

void blas_version(char* text, size_t room) {
  std::lock_guard<std::mutex> lock(state().mutex);
  const Library& lib = library();
  if (!lib.missing.empty()) {
    snprintf(text, room, "%s", lib.missing.c_str());
    return;
  }
  const size_t version = lib.call.cublasLtGetVersion();
  snprintf(text, room, "%zu.%zu.%zu", version / 10000, version / 100 % 100, version % 100);
}

BlasResult blas_product(const BlasProduct& g) {
  // Guards the plans, whose pointers change with every call, and the rounded bias, which waits for its product.
  std::lock_guard<std::mutex> lock(state().mutex);
  const Library& lib = library();
  char line[160];
  if (!lib.missing.empty()) {
    note(lib.missing.c_str());
    return BlasResult::kFailed;
  }
  size_t bytes = 0;
  char* work = workspace(&bytes);
  const void* bias = g.bias;
  if (g.bias && g.out_dtype == DType::kBF16) {
    bf16* const rounded = reinterpret_cast<bf16*>(work + bytes);
    if (!bytes || static_cast<size_t>(g.N) * sizeof(bf16) > kScratchBytes) return BlasResult::kUnsupported;
    round_bias(g.bias, g.N, rounded);
    bias = rounded;
  }
  const Plan& plan = plan_of(lib, g, bias, bytes);
  if (!plan.supported) return BlasResult::kUnsupported;
  const float one = 1.0f, beta = g.added ? 1.0f : 0.0f;
  using A = DescriptionAttribute;
  const auto set_description = [&](A attribute, const void* pointer) {
    return !pointer || set(lib.call.cublasLtMatmulDescSetAttribute, plan.description, attribute, pointer);
  };
  const void* added = g.added ? g.added : g.out;
  Status status = kInvalidValue;
  if (set_description(A::kBias, bias) && set_description(A::kAux, g.pre_activation))
    status = lib.call.cublasLtMatmul(lib.context, plan.description, &one, g.b, plan.b, g.a, plan.a, &beta, added,
                                     plan.out, g.out, plan.out, &plan.algorithm, work, bytes, stream());
  if (status == kSuccess) return BlasResult::kDone;
  snprintf(line, sizeof line, "cuBLASLt failed with status %d for (%lld, %lld) x (%lld, %lld)", status,
           static_cast<long long>(g.M), static_cast<long long>(g.K), static_cast<long long>(g.K),
           static_cast<long long>(g.N));
  note(line);
  return BlasResult::kFailed;
}

}  // namespace cuda
}  // namespace llmcore

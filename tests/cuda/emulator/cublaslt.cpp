// A libcublasLt that computes on the CPU: the functions of NVIDIA's C interface that csrc/cuda/gemm/blas.cu calls, with
// the semantics and the checks of its documentation (https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api).
// Where the real library may lack a kernel, this one always does: an epilogue requires every pointer and stride to be
// aligned to 16 bytes. The numbers below are the interface's, written down independently of csrc/cuda/gemm/cublaslt.h,
// so that each checks the other.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Stream = void*;

enum Status { kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15 };
enum Type { kUnset = -1, kFloat = 0, kBfloat16 = 14 };
constexpr int kCompute32F = 68;
enum Epilogue : uint32_t { kDefault = 1, kBias = 4, kGelu = 32, kAux = 128 };
enum Reduction : uint32_t { kInPlace = 1, kComputeType = 2, kAllReductions = 7 };

struct Handle {
  uint64_t magic;
};
constexpr uint64_t kMagic = 0x63756461626c6173u;

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};

struct Description {
  int compute_type, scale_type;
  int32_t transposed_a = 0, transposed_b = 0;
  uint32_t epilogue = kDefault;
  const void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_ld = 0;
  int32_t aux_type = kUnset, bias_type = kUnset;
};

struct Preference {
  uint64_t workspace_bytes = 0;
  uint32_t reductions = kAllReductions;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

struct Algorithm {  // of 64 bytes
  uint64_t problem;
  uint64_t workspace_bytes;
  uint32_t alignment[4];
  uint32_t bias_alignment;
  uint32_t unused[7];
};
static_assert(sizeof(Algorithm) == 64);

struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

size_t size_of(int type) { return type == kBfloat16 ? 2 : 4; }
bool aligned(const void* p, uint64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }
bool aligned(const Layout& x, uint64_t bytes) { return static_cast<uint64_t>(x.ld) * size_of(x.type) % bytes == 0; }

struct Problem {
  Description op;
  Layout a, b, c, d;

  uint64_t M() const { return d.rows; }
  uint64_t N() const { return d.columns; }
  uint64_t K() const { return op.transposed_a ? a.rows : a.columns; }
};

// Rejects what the documentation calls parameters in conflict, or an unsupported combination.
Status check(const Problem& p) {
  for (const Layout* x : {&p.a, &p.b, &p.c, &p.d}) {
    if (x->type != kFloat && x->type != kBfloat16) return kNotSupported;
    if (x->rows == 0 || x->columns == 0 || x->ld < static_cast<int64_t>(x->rows)) return kInvalidValue;
    if (x->rows > INT32_MAX || x->columns > INT32_MAX) return kNotSupported;
  }
  const Description& op = p.op;
  if (op.compute_type != kCompute32F || op.scale_type != kFloat) return kNotSupported;
  if (p.a.type != p.b.type || p.c.type != p.d.type) return kNotSupported;
  if (p.a.type == kFloat && p.d.type != kFloat) return kNotSupported;
  const uint64_t m = op.transposed_a ? p.a.columns : p.a.rows, n = op.transposed_b ? p.b.rows : p.b.columns;
  const uint64_t k = op.transposed_b ? p.b.columns : p.b.rows;
  if (m != p.M() || n != p.N() || k != p.K() || p.c.rows != m || p.c.columns != n) return kInvalidValue;
  switch (op.epilogue) {
    case kDefault:
    case kBias:
    case kGelu:
    case kGelu | kBias:
    case kGelu | kAux:
    case kGelu | kAux | kBias:
      break;
    default:
      return kNotSupported;
  }
  if (op.epilogue & kBias && op.bias_type != kUnset && op.bias_type != p.d.type) return kNotSupported;
  if (op.epilogue & kAux) {
    if (op.aux_ld % 8 != 0 || op.aux_ld < static_cast<int64_t>(m)) return kInvalidValue;
    if (op.aux_type != kUnset && op.aux_type != p.d.type) return kInvalidValue;
  }
  return kSuccess;
}

// An algorithm serves only the problem that it was chosen for.
uint64_t fingerprint(const Problem& p) {
  uint64_t h = 1469598103934665603u;
  const auto mix = [&](uint64_t x) { h = (h ^ x) * 1099511628211u; };
  for (const Layout* x : {&p.a, &p.b, &p.c, &p.d})
    mix(static_cast<uint64_t>(x->type)), mix(x->rows), mix(x->columns), mix(static_cast<uint64_t>(x->ld));
  mix(static_cast<uint64_t>(p.op.transposed_a)), mix(static_cast<uint64_t>(p.op.transposed_b)), mix(p.op.epilogue);
  return h;
}

Status choose(const Problem& p, const Preference& preference, Algorithm* algorithm) {
  if (const Status status = check(p)) return status;
  const Layout* layouts[4] = {&p.a, &p.b, &p.c, &p.d};
  bool wide = true;
  for (int i = 0; i < 4; ++i) {
    if (preference.alignment[i] < size_of(layouts[i]->type)) return kNotSupported;
    wide = wide && preference.alignment[i] >= 16 && aligned(*layouts[i], 16);
  }
  if (p.op.epilogue != kDefault && (!wide || !aligned(p.op.bias, 16) || !aligned(p.op.aux, 16))) return kNotSupported;
  *algorithm = {};
  algorithm->problem = fingerprint(p);
  for (int i = 0; i < 4; ++i) algorithm->alignment[i] = wide ? 16 : static_cast<uint32_t>(size_of(layouts[i]->type));
  algorithm->bias_alignment = 16;
  // Long sums are split in two, with both halves in the workspace.
  const uint64_t halves = 2 * p.M() * p.N() * sizeof(float);
  if (p.K() >= 512 && preference.reductions & kComputeType && halves <= preference.workspace_bytes)
    algorithm->workspace_bytes = halves;
  return kSuccess;
}

// ---- the product ----------------------------------------------------------------------------------

float load(const void* p, int type, int64_t i) {
  if (type == kFloat) return static_cast<const float*>(p)[i];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(p)[i]) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

void store(void* p, int type, int64_t i, float x) {
  if (type == kFloat) {
    static_cast<float*>(p)[i] = x;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &x, 4);
  static_cast<uint16_t*>(p)[i] = std::isnan(x) ? static_cast<uint16_t>(bits >> 16 | 0x40)
                                               : static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

struct Call {
  Problem problem;
  float alpha, beta;
  const void *a, *b, *c;
  void *d, *workspace;
  uint64_t workspace_bytes;

  void run() const;
  void finish(int64_t i, int64_t j, float sum) const;
};

void Call::finish(int64_t i, int64_t j, float sum) const {
  const Description& op = problem.op;
  const int type = problem.d.type;
  float x = alpha * sum;
  if (beta != 0.0f) x += beta * load(c, type, j * problem.c.ld + i);
  if (op.epilogue & kBias) x += load(op.bias, type, i);
  if (op.epilogue & kAux) store(op.aux, type, j * op.aux_ld + i, x);
  if (op.epilogue & kGelu) x = 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
  store(d, type, j * problem.d.ld + i, x);
}

// Blocks of kRows rows of op(A), as floats [k][row], by kColumns columns of op(B) at a time.
void Call::run() const {
  constexpr int64_t kRows = 128, kColumns = 4;
  if (workspace_bytes) memset(workspace, 0xff, workspace_bytes);  // destroys the previous contents
  const int64_t M = static_cast<int64_t>(problem.M()), N = static_cast<int64_t>(problem.N()),
                K = static_cast<int64_t>(problem.K());
  const Description& op = problem.op;
  const int64_t a_row = op.transposed_a ? problem.a.ld : 1, a_k = op.transposed_a ? 1 : problem.a.ld;
  const int64_t b_k = op.transposed_b ? problem.b.ld : 1, b_column = op.transposed_b ? 1 : problem.b.ld;
  std::vector<float> block(static_cast<size_t>(K * kRows)), columns(static_cast<size_t>(K * N));
  for (int64_t j = 0; j < N; ++j)
    for (int64_t k = 0; k < K; ++k)
      columns[static_cast<size_t>(j * K + k)] = load(b, problem.b.type, k * b_k + j * b_column);
  for (int64_t i0 = 0; i0 < M; i0 += kRows) {
    const int64_t rows = std::min(kRows, M - i0);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t k = 0; k < K; ++k)
        block[static_cast<size_t>(k * kRows + i)] = load(a, problem.a.type, (i0 + i) * a_row + k * a_k);
    for (int64_t j0 = 0; j0 < N; j0 += kColumns) {
      float sums[kColumns][kRows] = {};
      const int64_t count = std::min(kColumns, N - j0);
      for (int64_t k = 0; k < K; ++k)
        for (int64_t j = 0; j < count; ++j) {
          const float* w = &block[static_cast<size_t>(k * kRows)];
          const float x = columns[static_cast<size_t>((j0 + j) * K + k)];
          for (int64_t i = 0; i < kRows; ++i) sums[j][i] += x * w[i];
        }
      for (int64_t j = 0; j < count; ++j)
        for (int64_t i = 0; i < rows; ++i) finish(i0 + i, j0 + j, sums[j][i]);
    }
  }
}

// Calls the emulated runtime (runtime.cpp): the work runs at once, or joins the graph that the stream records. The
// function is looked up in the calling library, whose symbols are not global.
using Enqueue = void (*)(Stream, void (*)(void*), void*, void (*)(void*));

Enqueue find_enqueue(void* caller) {
  constexpr const char* kName = "llmcore_emulator_enqueue";
  Dl_info info{};
  void* const library = dladdr(caller, &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  void* const found = library ? dlsym(library, kName) : nullptr;
  return reinterpret_cast<Enqueue>(found ? found : dlsym(RTLD_DEFAULT, kName));
}

// A value is accepted if its size is right.
template <class T>
Status take(T* to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof(T)) return kInvalidValue;
  memcpy(to, value, bytes);
  return kSuccess;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cublasLtCreate(Handle** handle) {
  if (!handle) return kInvalidValue;
  *handle = new Handle{kMagic};
  return kSuccess;
}

EXPORT size_t cublasLtGetVersion() { return 130000; }

EXPORT int cublasLtMatmulDescCreate(Description** description, int compute_type, int scale_type) {
  if (!description) return kInvalidValue;
  *description = new Description{compute_type, scale_type};
  return kSuccess;
}

EXPORT int cublasLtMatmulDescDestroy(Description* description) {
  delete description;
  return kSuccess;
}

EXPORT int cublasLtMatmulDescSetAttribute(Description* op, int attribute, const void* value, size_t bytes) {
  if (!op) return kInvalidValue;
  switch (attribute) {
    case 3:
      return take(&op->transposed_a, value, bytes);
    case 4:
      return take(&op->transposed_b, value, bytes);
    case 7:
      return take(&op->epilogue, value, bytes);
    case 8:
      return take(&op->bias, value, bytes);
    case 11:
      return take(&op->aux, value, bytes);
    case 12:
      return take(&op->aux_ld, value, bytes);
    case 22:
      return take(&op->aux_type, value, bytes);
    case 26:
      return take(&op->bias_type, value, bytes);
    default:
      return kInvalidValue;
  }
}

EXPORT int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (!layout) return kInvalidValue;
  *layout = new Layout{type, rows, columns, ld};
  return kSuccess;
}

EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) {
  delete layout;
  return kSuccess;
}

EXPORT int cublasLtMatmulPreferenceCreate(Preference** preference) {
  if (!preference) return kInvalidValue;
  *preference = new Preference;
  return kSuccess;
}

EXPORT int cublasLtMatmulPreferenceDestroy(Preference* preference) {
  delete preference;
  return kSuccess;
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value,
                                                size_t bytes) {
  if (!preference) return kInvalidValue;
  switch (attribute) {
    case 1:
      return take(&preference->workspace_bytes, value, bytes);
    case 3:
      return take(&preference->reductions, value, bytes);
    case 5:
    case 6:
    case 7:
    case 8:
      return take(&preference->alignment[attribute - 5], value, bytes);
    default:
      return kInvalidValue;
  }
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(Handle* handle, Description* op, Layout* a, Layout* b, Layout* c, Layout* d,
                                          Preference* preference, int room, Heuristic* results, int* count) {
  if (!handle || handle->magic != kMagic) return kNotInitialized;
  if (!op || !a || !b || !c || !d || !preference || !results || !count || room <= 0) return kInvalidValue;
  *count = 0;
  Heuristic result{};
  if (const Status status = choose({*op, *a, *b, *c, *d}, *preference, &result.algorithm)) return status;
  result.workspace_bytes = result.algorithm.workspace_bytes, result.waves = 1.0f;
  results[0] = result, *count = 1;
  return kSuccess;
}

EXPORT int cublasLtMatmul(Handle* handle, Description* op, const void* alpha, const void* a, Layout* a_layout,
                          const void* b, Layout* b_layout, const void* beta, const void* c, Layout* c_layout, void* d,
                          Layout* d_layout, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                          Stream stream) {
  if (!handle || handle->magic != kMagic) return kNotInitialized;
  if (!op || !alpha || !beta || !a_layout || !b_layout || !c_layout || !d_layout || !algorithm) return kInvalidValue;
  const Problem problem{*op, *a_layout, *b_layout, *c_layout, *d_layout};
  if (const Status status = check(problem)) return status;
  if (algorithm->problem != fingerprint(problem)) return kInvalidValue;
  const void* pointers[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (!pointers[i] || !aligned(pointers[i], algorithm->alignment[i])) return kInvalidValue;
  if (op->epilogue & kBias && (!op->bias || !aligned(op->bias, algorithm->bias_alignment))) return kInvalidValue;
  if (op->epilogue & kAux && (!op->aux || !aligned(op->aux, 16))) return kInvalidValue;
  if (algorithm->workspace_bytes > workspace_bytes) return kInvalidValue;
  if (algorithm->workspace_bytes && (!workspace || !aligned(workspace, 16))) return kInvalidValue;
  static const Enqueue enqueue = find_enqueue(__builtin_return_address(0));
  if (!enqueue) return kNotInitialized;
  enqueue(
      stream, [](void* call) { static_cast<const Call*>(call)->run(); },
      new Call{problem, *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, d, workspace,
               algorithm->workspace_bytes},
      [](void* call) { delete static_cast<Call*>(call); });
  return kSuccess;
}

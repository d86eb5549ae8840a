// The few functions, numbers and structs of cuBLASLt's C interface that blas.cu uses, so that building needs no cuBLAS:
// the library is opened at run time. They are the same in versions 12 and 13. Matrices are column-major there.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace llmcore {
namespace cublaslt {

using Status = int;
constexpr Status kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15;

// cudaDataType_t, cublasComputeType_t (kCompute32F: products and sums of float32 operands in full float32, never TF32),
// cublasOperation_t
constexpr int kReal32F = 0, kReal16BF = 14;
constexpr int kCompute32F = 68;
constexpr int32_t kAsStored = 0, kTransposed = 1;

// Descriptors are made and freed by the library.
struct Context;
struct Layout;
struct Description;
struct Preference;

// cublasLtMatmulDescAttributes_t, with the type of the value
enum class DescriptionAttribute : int {
  kTransA = 3,     // int32_t
  kTransB = 4,     // int32_t
  kEpilogue = 7,   // uint32_t
  kBias = 8,       // pointer; one value for each row of D
  kAux = 11,       // pointer; the input of GELU
  kAuxLd = 12,     // int64_t; a multiple of 8
  kAuxType = 22,   // int32_t
  kBiasType = 26,  // int32_t; that of D
};

// cublasLtEpilogue_t: a sum of these
constexpr uint32_t kEpilogueDefault = 1, kEpilogueBias = 4, kEpilogueGelu = 32, kEpilogueAux = 128;

// cublasLtMatmulPreferenceAttributes_t, with the type of the value
enum class PreferenceAttribute : int {
  kWorkspaceBytes = 1,    // uint64_t
  kReductionSchemes = 3,  // uint32_t
  kAlignmentA = 5,        // uint32_t each
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8,
};
// Parts of a sum that was split go through the workspace, in float32, and are added in order.
constexpr uint32_t kReductionComputeType = 2;

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

// One member per function, with its name in the library.
struct Functions {
  Status (*cublasLtCreate)(Context**);
  size_t (*cublasLtGetVersion)();
  Status (*cublasLtMatmulDescCreate)(Description**, int compute_type, int scale_type);
  Status (*cublasLtMatmulDescDestroy)(Description*);
  Status (*cublasLtMatmulDescSetAttribute)(Description*, DescriptionAttribute, const void* value, size_t bytes);
  Status (*cublasLtMatrixLayoutCreate)(Layout**, int type, uint64_t rows, uint64_t columns, int64_t ld);
  Status (*cublasLtMatrixLayoutDestroy)(Layout*);
  Status (*cublasLtMatmulPreferenceCreate)(Preference**);
  Status (*cublasLtMatmulPreferenceDestroy)(Preference*);
  Status (*cublasLtMatmulPreferenceSetAttribute)(Preference*, PreferenceAttribute, const void* value, size_t bytes);
  Status (*cublasLtMatmulAlgoGetHeuristic)(Context*, Description*, Layout* a, Layout* b, Layout* c, Layout* d,
                                           Preference*, int room, Heuristic*, int* count);
  Status (*cublasLtMatmul)(Context*, Description*, const void* alpha, const void* a, Layout*, const void* b, Layout*,
                           const void* beta, const void* c, Layout*, void* d, Layout*, const Algorithm*,
                           void* workspace, size_t workspace_bytes, cudaStream_t);
};

}  // namespace cublaslt
}  // namespace llmcore

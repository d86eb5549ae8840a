// Drawing tokens; ops/sample.h gives the exact semantics. The logits are read twice, the second time mostly from the L2
// cache, by blocks that handle pieces of rows, so that one row fills many processors:
//   mask, change  rows with a mask, biases or penalties: a copy of them (only where the batch can have any)
//   survey        maxima, log sum exp
//   bound         one block per row: the logit below which nothing survives the filters
//   scan          draws from rows that nothing filters; else collects the few tokens above the bound
//   row           one block per row: cuts the candidates by a radix walk (select.cuh), draws
// If there are too many candidates, or they do not include everything that top-p keeps, `row` walks over the row
// itself. The noise is the CPU's to the bit (core/noise.h). A row's bits depend on V and the row, not on its
// neighbours.
#include "cuda/sample/pieces.cuh"
#include "cuda/sample/rows.cuh"

namespace llmcore {
namespace cuda {
namespace {

// Hands out aligned parts of the workspace.
struct Cutter {
  char* base;
  size_t used = 0;
  template <class P>
  P* take(int64_t n) {
    P* p = base ? reinterpret_cast<P*>(base + used) : nullptr;
    used += (static_cast<size_t>(n) * sizeof(P) + 63) / 64 * 64;
    return p;
  }
};

Space space_of(const SampleArgs& a, void* workspace, size_t& bytes) {
  Space s{};
  s.pieces_of_row = static_cast<int>((a.V + kSamplePiece - 1) / kSamplePiece);
  s.threads = a.V >= 4 * kPieceThreads ? kPieceThreads : static_cast<int>(round_up((a.V + 3) / 4, kWarp));
  s.room = a.V < kMostCandidates ? round_up(a.V, 4) : kMostCandidates;
  s.stride = round_up(a.V, 4);
  int bits = 44;  // weights are at most 1
  while (a.V >> (62 - bits)) --bits;
  s.one = static_cast<float>(int64_t{1} << bits);
  Cutter cutter{static_cast<char*>(workspace)};
  s.rows = cutter.take<RowState>(a.B);
  s.pieces = cutter.take<PieceState>(a.B * s.pieces_of_row);
  s.maxima = cutter.take<float>(a.B * s.pieces_of_row * s.threads);
  s.logit = cutter.take<float>(a.B * s.room);
  s.id = cutter.take<uint32_t>(a.B * s.room);
  if (a.mask || a.bias_offsets || a.history) s.changed = cutter.take<float>(a.B * s.stride);
  if (a.bias_offsets || a.history) s.count = cutter.take<uint32_t>(a.B * s.stride);
  bytes = cutter.used;
  return s;
}

size_t sample_workspace(const SampleArgs& a) {
  size_t bytes;
  space_of(a, nullptr, bytes);
  return bytes;
}

template <class T>
void sample_typed(const SampleArgs& a) {
  constexpr const char* kOp = "sample";
  size_t bytes;
  const Space space = space_of(a, a.workspace, bytes);
  const dim3 pieces(static_cast<unsigned>(a.B * space.pieces_of_row)), rows(static_cast<unsigned>(a.B));
  const bool aligned = a.V % 4 == 0 && reinterpret_cast<uintptr_t>(a.logits) % (4 * sizeof(T)) == 0;
  int id_bits = 0, threads = kMostRowThreads;
  while ((a.V - 1) >> id_bits) ++id_bits;
  if (a.V <= 2 * kSamplePiece) threads = a.V > 1024 ? 256 : a.V > 256 ? 64 : 32;
  if (space.changed) launch(kOp, mask_kernel<T>, pieces, space.threads, 0, a, space);
  if (space.count) launch(kOp, change_kernel, rows, kChangeThreads, 0, a, space);
  launch(kOp, survey_kernel<T>, pieces, space.threads, 0, a, space, aligned);
  launch(kOp, bound_kernel, rows, threads < kBoundThreads ? threads : kBoundThreads, 0, a, space);
  launch(kOp, scan_kernel<T>, pieces, space.threads, 0, a, space, aligned);
  launch(kOp, row_kernel<T>, rows, threads, 0, a, space, id_bits);
}

void sample(const SampleArgs& a) {
  with_float(a.dtype, [&](auto t) { sample_typed<decltype(t)>(a); });
}

}  // namespace

void register_sample(KernelTable& t) {
  t.sample_workspace = sample_workspace;
  t.sample = sample;
}

}  // namespace cuda
}  // namespace llmcore

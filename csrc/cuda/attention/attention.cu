// Attention's entries in the table: the choice of kernels, and the data about every query that the backward kernels
// read.
#include "cuda/attention/attention.cuh"

namespace llmcore {
namespace cuda {
namespace {

// ---- which kernels ----------------------------------------------------------------------------------
bool multiple_of_8(const Strides3& s) { return s.b % 8 == 0 && s.t % 8 == 0 && s.h % 8 == 0; }
bool aligned_to(size_t bytes, std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % bytes) return false;
  return true;
}

// ---- what the backward reads ------------------------------------------------------------------------
constexpr int kPrepareThreads = 128, kLanesOfRow = 8;

// lse2, delta (B,H,T64). Eight lanes per query, adjacent in memory.
template <class T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_rows_kernel(const AttentionBackwardArgs args, const Prepared prepared, const bool aligned) {
  constexpr int kN = kVec<T>;
  const AttentionArgs& a = args.forward;
  const int64_t padded = prepared.tiles * kQueryTile, rows = a.B * padded * a.H;
  const int64_t row = (int64_t{blockIdx.x} * kPrepareThreads + threadIdx.x) / kLanesOfRow;
  const int lane = threadIdx.x % kLanesOfRow;
  const int64_t h = row % a.H, t = row / a.H % padded, b = row / a.H / padded;
  const bool is = row < rows && t < a.T;
  float dot = 0.0f;
  if (is) {
    const T* const out = static_cast<const T*>(a.out) + b * a.out_stride.b + t * a.out_stride.t + h * a.out_stride.h;
    const T* const dout = static_cast<const T*>(args.dout) + ((b * a.T + t) * a.H + h) * a.D;
    for (int64_t d = lane * kN; d < a.D; d += kLanesOfRow * kN) {
      if (aligned) {
        const Vec<T, kN> y = *reinterpret_cast<const Vec<T, kN>*>(out + d);
        const Vec<T, kN> dy = *reinterpret_cast<const Vec<T, kN>*>(dout + d);
#pragma unroll
        for (int i = 0; i < kN; ++i) dot = fmaf(as_float(y.v[i]), as_float(dy.v[i]), dot);
      } else {
        for (int i = 0; i < kN && d + i < a.D; ++i) dot = fmaf(as_float(out[d + i]), as_float(dout[d + i]), dot);
      }
    }
  }
#pragma unroll
  for (int step = kLanesOfRow / 2; step; step /= 2) dot += __shfl_xor_sync(kAllLanes, dot, step);
  if (row >= rows || lane) return;
  const float lse = is ? a.lse[(b * a.H + h) * a.T + t] : -INFINITY;
  const int64_t at = (b * a.H + h) * padded + t;
  prepared.lse2[at] = lse == -INFINITY ? INFINITY : lse * kLog2e;
  prepared.delta[at] = lse == -INFINITY ? 0.0f : dot;
}

// low (B,T64), lowest and highest (B,T64/64). One block per tile of queries.
__global__ void __launch_bounds__(kQueryTile) prepare_tiles_kernel(const AttentionArgs a, const Prepared prepared) {
  __shared__ int least[kQueryTile / kWarp], most[kQueryTile / kWarp];
  const int64_t b = blockIdx.x / prepared.tiles, t = blockIdx.x % prepared.tiles * kQueryTile + threadIdx.x;
  const int low = t < a.T ? seen_by(a, b, t).low : INT_MAX;
  prepared.low[b * prepared.tiles * kQueryTile + t] = low;
  const int lowest = warp_min(low), highest = warp_max(t < a.T ? low : 0);
  if (threadIdx.x % kWarp == 0) least[threadIdx.x / kWarp] = lowest, most[threadIdx.x / kWarp] = highest;
  __syncthreads();
  if (threadIdx.x == 0) prepared.lowest[blockIdx.x] = min(least[0], least[1]);
  if (threadIdx.x == 0) prepared.highest[blockIdx.x] = max(most[0], most[1]);
}

// Carves the arrays out of a workspace; returns its end.
size_t lay_out(const AttentionArgs& a, char* base, Prepared& p) {
  size_t used = 0;
  const auto take = [&](auto*& to, int64_t n) {
    to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(base + used);
    used += static_cast<size_t>(round_up(n * 4, 64));
  };
  p.tiles = (a.T + kQueryTile - 1) / kQueryTile;
  const int64_t padded = p.tiles * kQueryTile;
  take(p.lse2, a.B * a.H * padded);
  take(p.delta, a.B * a.H * padded);
  take(p.low, a.B * padded);
  take(p.lowest, a.B * p.tiles);
  take(p.highest, a.B * p.tiles);
  return used;
}

void prepare_backward(const AttentionBackwardArgs& args, const Prepared& prepared) {
  const AttentionArgs& a = args.forward;
  launch("attention_backward", prepare_tiles_kernel, dim3(static_cast<unsigned>(a.B * prepared.tiles)),
         dim3(kQueryTile), 0, a, prepared);
  const unsigned blocks = ceil_div(a.B * a.H * prepared.tiles * kQueryTile, kPrepareThreads / kLanesOfRow);
  with_float(a.dtype, [&](auto x) {
    using T = decltype(x);
    const bool aligned = a.D % kVec<T> == 0 && multiple_of_8(a.out_stride) && aligned_to(16, {a.out, args.dout});
    launch("attention_backward", prepare_rows_kernel<T>, dim3(blocks), dim3(kPrepareThreads), 0, args, prepared,
           aligned);
  });
}

// ---- the table --------------------------------------------------------------------------------------
size_t attention_workspace(const AttentionArgs& a) { return takes_few_queries(a) ? few_queries_workspace(a) : 0; }

void attention_forward(const AttentionArgs& a) {
  if (a.B == 0 || a.T == 0 || a.H == 0) return;
  if (takes_few_queries(a)) return few_queries_forward(a);
  takes_tiles(a) ? tiles_forward(a) : plain_forward(a);
}

size_t attention_backward_workspace(const AttentionArgs& a) {
  Prepared p;
  return lay_out(a, nullptr, p);
}

void attention_backward(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  if (a.B == 0 || a.H == 0) return;
  Prepared prepared;
  lay_out(a, static_cast<char*>(a.workspace), prepared);
  prepare_backward(args, prepared);
  takes_tiles(args) ? tiles_backward(args, prepared) : plain_backward(args, prepared);
}

}  // namespace

bool takes_tiles(const AttentionArgs& a) {
  if (a.dtype != DType::kBF16 || (a.D != 64 && a.D != 128)) return false;
  for (const Strides3& s : {a.q_stride, a.k_stride, a.v_stride, a.out_stride})
    if (!multiple_of_8(s)) return false;
  return aligned_to(16, {a.q, a.out}) && aligned_to(a.k_scale ? 8 : 16, {a.k, a.v});
}
bool takes_tiles(const AttentionBackwardArgs& args) {
  return takes_tiles(args.forward) && aligned_to(16, {args.dout, args.dq, args.dk, args.dv});
}

void register_attention(KernelTable& t) {
  t.attention_workspace = attention_workspace;
  t.attention_forward = attention_forward;
  t.attention_backward_workspace = attention_backward_workspace;
  t.attention_backward = attention_backward;
}

}  // namespace cuda
}  // namespace llmcore

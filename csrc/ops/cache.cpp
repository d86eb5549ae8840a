#include "ops/cache.h"

#include "ops/base/common.h"
#include "ops/rope.h"

namespace llmcore {

Tensor with_contiguous_heads(const Tensor& t) { return t.stride(3) == 1 || t.dim(3) == 1 ? t : t.contiguous(); }

Strides3 strides(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2)}; }

Tensor checked_blocks(const char* op, const Tensor& blocks, int64_t B, int64_t N, Device device) {
  check_dtype(op, "blocks", blocks, DType::kI32);
  if (blocks.ndim() != 2 || blocks.dim(0) != B) fail(op, "blocks (B, n)", to_string(blocks.shape()));
  check_contiguous(op, "blocks", blocks);
  check_device(op, "blocks", blocks, Device::kCPU);
  const int32_t* block = blocks.data_as<int32_t>();
  for (int64_t i = 0; i < blocks.size(); ++i)
    if (block[i] < 0 || block[i] >= N) fail(op, "blocks in [0, " + std::to_string(N) + ")", std::to_string(block[i]));
  return blocks.to(device);
}

void check_scale(const char* op, const char* name, const Tensor& scale, const Tensor& of) {
  check_dtype(op, name, scale, DType::kF32);
  check_shape(op, name, scale, {of.dim(0), of.dim(1), of.dim(2)});
  check_contiguous(op, name, scale);
  check_device(op, name, scale, of.device());
}

namespace {

// Tensors that keep the pointers in the arguments valid.
struct AppendTensors {
  Tensor lengths, blocks;
};

// Returns the kernel's checked arguments, except x and its strides.
CacheAppendArgs append_args(const char* op, Tensor& cache, DType dtype, int64_t B, int64_t T, const Tensor& lengths,
                            const std::optional<Tensor>& blocks, const std::optional<Tensor>& scale,
                            AppendTensors& kept) {
  if (!scale) check_float(op, "cache", cache);
  check_in_place(op, "cache", cache);
  if (cache.ndim() != 4) fail(op, "cache (B, S, H, D)", describe(cache));
  const int64_t H = cache.dim(2), D = cache.dim(3);
  check_shape(op, "lengths", lengths, {B});
  if (blocks) {
    kept.blocks = checked_blocks(op, *blocks, B, cache.dim(0), cache.device());
    check_shape(op, "cache", cache, {cache.dim(0), kCacheBlock, H, D});
  }
  if (scale) {
    if (!blocks) fail(op, "blocks with a scale", "none");
    check_dtype(op, "cache", cache, DType::kU8);
    check_scale(op, "scale", *scale, cache);
    check_in_place(op, "scale", *scale);
  }
  const int64_t S = blocks ? blocks->dim(1) * kCacheBlock : cache.dim(1);
  kept.lengths = checked_ids(op, "lengths", lengths, T, S + 1, cache.device());
  CacheAppendArgs a{};
  a.dtype = dtype, a.cache_dtype = cache.dtype();
  a.B = B, a.T = T, a.S = S, a.H = H, a.D = D;
  a.cache = cache.data(), a.scale = scale ? scale->data_as<float>() : nullptr;
  a.blocks = blocks ? kept.blocks.data_as<int32_t>() : nullptr, a.lengths = kept.lengths.data_as<int32_t>();
  return a;
}

}  // namespace

void cache_append(Tensor& cache, const Tensor& x_in, const Tensor& lengths, const std::optional<Tensor>& blocks,
                  const std::optional<Tensor>& scale) {
  const char* op = "cache_append";
  check_float(op, "x", x_in);
  if (cache.ndim() != 4 || x_in.ndim() != 4) fail(op, "cache (B, S, H, D) and x (B, T, H, D)", describe(x_in));
  const int64_t B = blocks ? x_in.dim(0) : cache.dim(0), T = x_in.dim(1);
  check_shape(op, "x", x_in, {B, T, cache.dim(2), cache.dim(3)});
  check_device(op, "x", x_in, cache.device());
  AppendTensors kept;
  CacheAppendArgs a = append_args(op, cache, x_in.dtype(), B, T, lengths, blocks, scale, kept);
  const Tensor x = with_contiguous_heads(x_in);
  a.x = x.data(), a.x_stride = strides(x);
  kernel(op, cache.device(), &KernelTable::cache_append)(a);
}

Tensor rope_append(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& positions, Tensor& keys,
                   Tensor& values, const Tensor& lengths, const CacheBlocks& cache, DType dtype) {
  const char* op = "rope_append";
  check_float(op, "qkv", qkv);
  if (qkv.ndim() != 4 || keys.ndim() != 4) fail(op, "qkv (B, T, H + 2 Hkv, D) and keys (N, 64, Hkv, D)", describe(qkv));
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type(op, "dtype float32 or bfloat16", name_of(dtype));
  const int64_t B = qkv.dim(0), T = qkv.dim(1), D = qkv.dim(3), H = qkv.dim(2) - 2 * keys.dim(2);
  if (H < 1 || keys.dim(3) != D || D > kMostHeadSize)
    fail(op, "qkv (B, T, H + 2 Hkv, D) with D at most " + std::to_string(kMostHeadSize), describe(qkv));
  check_like(op, "values", values, keys);
  const Rotation turn = checked_rotation(op, cos, sin, positions, B, T, D, qkv.device());
  check_device(op, "keys", keys, qkv.device());
  AppendTensors for_keys, for_values;
  RopeAppendArgs a{};
  a.keys = append_args(op, keys, qkv.dtype(), B, T, lengths, cache.blocks, cache.k_scale, for_keys);
  a.values = append_args(op, values, qkv.dtype(), B, T, lengths, cache.blocks, cache.v_scale, for_values);
  const Tensor x = qkv.contiguous();
  Tensor q = Tensor::empty({B, T, H, D}, dtype, x.device());
  a.H = H, a.D = D, a.R = 2 * turn.cos.dim(1);
  a.x = x.data(), a.q = q.data(), a.q_dtype = dtype;
  a.cos = turn.cos.data_as<float>(), a.sin = turn.sin.data_as<float>(), a.positions = turn.positions.data_as<int32_t>();
  kernel(op, x.device(), &KernelTable::rope_append)(a);
  return q;
}

}  // namespace llmcore

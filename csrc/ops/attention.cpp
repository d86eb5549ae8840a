#include "ops/attention.h"

#include <algorithm>
#include <cmath>

#include "ops/common.h"
#include "ops/elementwise.h"

namespace llmcore {
namespace {

Tensor with_contiguous_heads(const Tensor& t) { return t.stride(3) == 1 || t.dim(3) == 1 ? t : t.contiguous(); }

Strides3 strides(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2)}; }

// On the device, checked. Read anew at every replay of a plan, unlike the check: who changes them keeps them in range.
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

AttentionArgs checked_args(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                           std::optional<float> scale, bool causal, std::optional<float> softcap,
                           const CacheBlocks* cache = nullptr, Tensor* blocks = nullptr) {
  check_float(op, "q", q);
  const DType key_dtype = cache && cache->k_scale ? DType::kU8 : q.dtype();
  check_dtype(op, "k", k, key_dtype);
  check_dtype(op, "v", v, key_dtype);
  for (const Tensor* t : {&q, &k, &v})
    if (t->ndim() != 4) fail(op, "q (B, T, H, D), k and v (B, S, Hkv, D)", to_string(t->shape()));
  check_device(op, "k", k, q.device());
  check_device(op, "v", v, q.device());
  AttentionArgs a{};
  a.dtype = q.dtype();
  a.B = q.dim(0), a.T = q.dim(1), a.S = k.dim(1), a.H = q.dim(2), a.Hkv = k.dim(2), a.D = q.dim(3);
  const Shape keys = {cache ? k.dim(0) : a.B, cache ? kCacheBlock : a.S, a.Hkv, a.D};
  check_shape(op, "k", k, keys);
  check_shape(op, "v", v, keys);
  if (cache) {
    *blocks = checked_blocks(op, cache->blocks, a.B, k.dim(0), q.device());
    a.S = cache->blocks.dim(1) * kCacheBlock;
    a.blocks = blocks->data_as<int32_t>();
    if (cache->k_scale.has_value() != cache->v_scale.has_value()) fail(op, "both scales or none", "one");
    if (cache->k_scale) {
      check_scale(op, "k_scale", *cache->k_scale, k);
      check_scale(op, "v_scale", *cache->v_scale, v);
      a.k_scale = cache->k_scale->data_as<float>(), a.v_scale = cache->v_scale->data_as<float>();
    }
  }
  if (a.S >= int64_t{1} << 31) fail(op, "fewer than 2^31 keys", std::to_string(a.S));
  if (a.Hkv < 1 || a.H % a.Hkv)
    fail(op, "query heads a multiple of key heads", std::to_string(a.H) + " and " + std::to_string(a.Hkv));
  if (a.D < 1) fail(op, "a head size of at least 1", "0");
  a.scale = scale ? *scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.D)));
  a.causal = causal;
  if (softcap && (!(*softcap > 0) || std::isinf(*softcap))) fail(op, "softcap a number > 0", std::to_string(*softcap));
  a.softcap = softcap.value_or(0.0f);
  return a;
}

void set_tensors(AttentionArgs& a, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  a.q = q.data(), a.k = k.data(), a.v = v.data(), a.out = out.data();
  a.q_stride = strides(q), a.k_stride = strides(k), a.v_stride = strides(v), a.out_stride = strides(out);
}

// Sets what hides early keys from a query; returns what a.starts points into. lengths: on the host, or undefined.
Tensor set_first_keys(const char* op, AttentionArgs& a, std::optional<int64_t> window,
                      const std::optional<Tensor>& starts, const Tensor& lengths, Device device) {
  if ((window || starts) && !a.causal) fail(op, "causal attention with window or starts", "causal=False");
  if (window && *window < 1) fail(op, "a window of at least 1", std::to_string(*window));
  a.window = window ? std::min(*window, a.S) : a.S;
  if (!starts) return {};
  check_shape(op, "starts", *starts, {a.B, a.T});
  const Tensor first = checked_ids(op, "starts", *starts, 0, std::max<int64_t>(a.S, 1));
  const int32_t *start = first.data_as<int32_t>(), *length = lengths.defined() ? lengths.data_as<int32_t>() : nullptr;
  for (int64_t i = 0; i < a.B * a.T; ++i) {
    const int64_t position = (length ? length[i / a.T] : a.S) - a.T + i % a.T;
    if (start[i] > position)
      fail(op, "starts at most the query's position " + std::to_string(position), std::to_string(start[i]));
  }
  const Tensor there = first.to(device);
  a.starts = there.data_as<int32_t>();
  return there;
}

Tensor bytes(size_t n, Device device) { return Tensor::empty({static_cast<int64_t>(n)}, DType::kU8, device); }

// Whether q, k, v are neighbouring views of one (B,T,H+2Hkv,D) tensor.
bool are_neighbours(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t heads = q.dim(2) + k.dim(2) + v.dim(2), D = q.dim(3), T = q.dim(1);
  if (q.storage() != k.storage() || q.storage() != v.storage() || k.dim(1) != T) return false;
  if (k.offset() != q.offset() + q.dim(2) * D || v.offset() != k.offset() + k.dim(2) * D) return false;
  for (const Tensor* t : {&q, &k, &v})
    if (t->stride(0) != T * heads * D || t->stride(1) != heads * D || t->stride(2) != D || t->stride(3) != 1)
      return false;
  return true;
}

}  // namespace

std::pair<Tensor, Tensor> attention(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                                    std::optional<float> scale, bool causal, const std::optional<Tensor>& lengths,
                                    std::optional<int64_t> window, const std::optional<Tensor>& starts,
                                    std::optional<float> softcap, const std::optional<CacheBlocks>& cache) {
  const char* op = "attention";
  Tensor blocks;
  AttentionArgs a = checked_args(op, q_in, k_in, v_in, scale, causal, softcap, cache ? &*cache : nullptr, &blocks);
  const Tensor q = with_contiguous_heads(q_in), k = with_contiguous_heads(k_in), v = with_contiguous_heads(v_in);
  Tensor len, host_lengths;
  if (lengths) {
    check_shape(op, "lengths", *lengths, {a.B});
    const int64_t least = causal ? a.T : 0;
    len = checked_ids(op, "lengths", *lengths, least, a.S + 1, q.device());
    if (starts) host_lengths = checked_ids(op, "lengths", *lengths, least, a.S + 1);
    a.lengths = len.data_as<int32_t>();
  } else if (causal && a.T > a.S) {
    fail(op, "no more queries than keys (causal)", std::to_string(a.T) + " and " + std::to_string(a.S));
  }
  const Tensor first_keys = set_first_keys(op, a, window, starts, host_lengths, q.device());
  Tensor out = Tensor::empty({a.B, a.T, a.H, a.D}, a.dtype, q.device());
  Tensor lse = Tensor::empty({a.B, a.H, a.T}, DType::kF32, q.device());
  set_tensors(a, q, k, v, out);
  a.lse = lse.data_as<float>();
  if (out.size() == 0) return {out, lse};
  const Tensor workspace = bytes(kernel(op, q.device(), &KernelTable::attention_workspace)(a), q.device());
  a.workspace = workspace.data();
  a.workspace_bytes = static_cast<size_t>(workspace.size());
  kernel(op, q.device(), &KernelTable::attention_forward)(a);
  return {out, lse};
}

std::array<Tensor, 3> attention_backward(const Tensor& dout_in, const Tensor& q_in, const Tensor& k_in,
                                         const Tensor& v_in, const Tensor& out_in, const Tensor& lse,
                                         std::optional<float> scale, bool causal, std::optional<int64_t> window,
                                         const std::optional<Tensor>& starts, std::optional<float> softcap) {
  const char* op = "attention_backward";
  AttentionArgs a = checked_args(op, q_in, k_in, v_in, scale, causal, softcap);
  check_shape(op, "dout", dout_in, {a.B, a.T, a.H, a.D});
  check_dtype(op, "dout", dout_in, a.dtype);
  check_device(op, "dout", dout_in, q_in.device());
  check_like(op, "out", out_in, dout_in);
  check_shape(op, "lse", lse, {a.B, a.H, a.T});
  check_dtype(op, "lse", lse, DType::kF32);
  check_contiguous(op, "lse", lse);
  check_device(op, "lse", lse, q_in.device());
  const Tensor first_keys = set_first_keys(op, a, window, starts, {}, q_in.device());
  const Tensor dout = dout_in.contiguous(), out = with_contiguous_heads(out_in);
  // The kernel writes gradients with the strides of what they belong to.
  const bool packed = are_neighbours(q_in, k_in, v_in);
  const Tensor q = packed ? q_in : q_in.contiguous(), k = packed ? k_in : k_in.contiguous(),
               v = packed ? v_in : v_in.contiguous();
  std::array<Tensor, 3> grads;
  if (packed) {
    const Tensor all = Tensor::empty({a.B, a.T, a.H + 2 * a.Hkv, a.D}, a.dtype, q.device());
    grads = {all.narrow(2, 0, a.H), all.narrow(2, a.H, a.Hkv), all.narrow(2, a.H + a.Hkv, a.Hkv)};
  } else {
    grads = {Tensor::empty_like(q), Tensor::empty_like(k), Tensor::empty_like(v)};
  }
  if (q.size() == 0 || k.size() == 0) {  // nothing attends to anything
    for (Tensor& g : grads) g.zero();
    return grads;
  }
  set_tensors(a, q, k, v, out);
  a.lse = lse.data_as<float>();
  const Tensor workspace = bytes(kernel(op, q.device(), &KernelTable::attention_backward_workspace)(a), q.device());
  a.workspace = workspace.data();
  a.workspace_bytes = static_cast<size_t>(workspace.size());
  kernel(op, q.device(),
         &KernelTable::attention_backward)({a, dout.data(), grads[0].data(), grads[1].data(), grads[2].data()});
  return grads;
}

namespace {

// What the pointers of the arguments need.
struct AppendTensors {
  Tensor lengths, blocks;
};

// The arguments of the kernel, checked, but for x and its strides.
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

Tensor join(const std::vector<Tensor>& parts, int dim) {
  const char* op = "join";
  if (parts.empty()) fail(op, "at least one tensor", "none");
  const Tensor& first = parts[0];
  if (dim < 0) dim += first.ndim();
  if (dim < 0 || dim >= first.ndim()) fail(op, "a dimension of " + to_string(first.shape()), std::to_string(dim));
  Shape shape = first.shape();
  shape[dim] = 0;
  bool neighbours = true;
  for (const Tensor& p : parts) {
    Shape other = p.shape();
    check_dtype(op, "all parts", p, first.dtype());
    check_device(op, "all parts", p, first.device());
    if (p.ndim() == first.ndim()) other[dim] = shape[dim];
    if (other != shape) fail(op, "parts that differ in one dimension only", to_string(p.shape()));
    neighbours = neighbours && p.storage() == first.storage() && p.strides() == first.strides() &&
                 p.offset() == first.offset() + shape[dim] * first.stride(dim);
    shape[dim] += p.dim(dim);
  }
  if (neighbours) {
    const Tensor view = first.as_strided(shape, first.strides(), first.offset());
    if (view.is_contiguous()) return view;
  }
  Tensor out = Tensor::empty(shape, first.dtype(), first.device());
  int64_t start = 0;
  for (const Tensor& p : parts) {
    copy_into(p, out.narrow(dim, start, p.dim(dim)));
    start += p.dim(dim);
  }
  return out;
}

}  // namespace llmcore

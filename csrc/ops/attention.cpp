#include "ops/attention.h"

#include <algorithm>
#include <cmath>

#include "ops/base/common.h"

namespace llmcore {
namespace {

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

// Sets the fields that hide early keys from a query; returns the tensor that a.starts points into. lengths: on the
// host, or undefined.
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
  // The kernel writes each gradient with the strides of the tensor it belongs to.
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
  if (q.size() == 0 || k.size() == 0) {  // there is no query or no key
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

}  // namespace llmcore

#include "ops/quantized.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "core/thread_pool.h"
#include "ops/base/common.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"

namespace llmcore {
namespace {

// Numbers and factors of 32 weights of a row, in transit from a file's blocks to a strip.
struct Block {
  uint8_t q[32];
  float scale[2], minimum[2];
};

float half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  const uint32_t bits = (h & 0x7fffu) << 13;
  float size;
  std::memcpy(&size, &bits, 4);
  size *= 0x1p112f;
  return h & 0x8000 ? -size : size;
}

// A block type, with the function that unpacks the i-th 32 weights of a block.
struct BlockType {
  const char* name;
  int64_t elements, bytes;
  QuantLayout layout;
  void (*read)(const uint8_t* block, int i, Block& out);
};

void read_q5(const uint8_t* high, const uint8_t* low, Block& out, int add) {
  uint32_t bits;
  std::memcpy(&bits, high, 4);
  for (int j = 0; j < 16; ++j) {
    out.q[j] = static_cast<uint8_t>(((low[j] & 15) | (bits >> j & 1) << 4) + static_cast<uint32_t>(add));
    out.q[j + 16] = static_cast<uint8_t>((low[j] >> 4 | (bits >> (j + 16) & 1) << 4) + static_cast<uint32_t>(add));
  }
}
void read_q5_0(const uint8_t* b, int, Block& out) {
  out.scale[0] = half_at(b);
  read_q5(b + 2, b + 6, out, 128 - 16);
}
void read_q5_1(const uint8_t* b, int, Block& out) {
  out.scale[0] = half_at(b), out.minimum[0] = half_at(b + 2);
  read_q5(b + 4, b + 8, out, 0);
}
// 16 scales and minima of 4 bits; d and dmin come after the numbers.
void read_q2_k(const uint8_t* b, int i, Block& out) {
  const float d = half_at(b + 80), least = half_at(b + 82);
  const uint8_t* q = b + 16 + i / 4 * 32;
  for (int j = 0; j < 32; ++j) out.q[j] = q[j] >> (2 * (i % 4)) & 3;
  for (int h = 0; h < 2; ++h) {
    const uint8_t s = b[2 * i + h];
    out.scale[h] = d * static_cast<float>(s & 15), out.minimum[h] = -(least * static_cast<float>(s >> 4));
  }
}
void read_q3_k(const uint8_t* b, int i, Block& out) {
  const uint8_t *high = b, *q = b + 32 + i / 4 * 32, *low = b + 96, *top = b + 104;
  for (int j = 0; j < 32; ++j) {
    const int bits = q[j] >> (2 * (i % 4)) & 3;
    out.q[j] = static_cast<uint8_t>(bits + ((high[j] >> i & 1) ? 8 : 4));  // -4..3, with 8 as zero
  }
  for (int h = 0; h < 2; ++h) {
    const int s = 2 * i + h, four = s < 8 ? low[s] & 15 : low[s - 8] >> 4, two = top[s % 4] >> (2 * (s / 4)) & 3;
    out.scale[h] = half_at(b + 108) * static_cast<float>((four | two << 4) - 32);
  }
}
void six_bit_factors(const uint8_t* b, int i, Block& out) {
  const uint8_t* s = b + 4;
  const int scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
  const int least = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | (s[i] >> 6) << 4;
  out.scale[0] = half_at(b) * static_cast<float>(scale);
  out.minimum[0] = -(half_at(b + 2) * static_cast<float>(least));
}
void read_q4_k(const uint8_t* b, int i, Block& out) {
  six_bit_factors(b, i, out);
  const uint8_t* q = b + 16 + i / 2 * 32;
  for (int j = 0; j < 32; ++j) out.q[j] = i % 2 ? q[j] >> 4 : q[j] & 15;
}
void read_q5_k(const uint8_t* b, int i, Block& out) {
  six_bit_factors(b, i, out);
  const uint8_t *high = b + 16, *q = b + 48 + i / 2 * 32;
  for (int j = 0; j < 32; ++j)
    out.q[j] = static_cast<uint8_t>((i % 2 ? q[j] >> 4 : q[j] & 15) | (high[j] >> i & 1) << 4);
}
void read_q6_k(const uint8_t* b, int i, Block& out) {
  const uint8_t *low = b + i / 4 * 64 + i % 2 * 32, *high = b + 128 + i / 4 * 32;
  for (int j = 0; j < 32; ++j) {
    const int four = i % 4 < 2 ? low[j] & 15 : low[j] >> 4;
    out.q[j] = static_cast<uint8_t>((four | (high[j] >> (2 * (i % 4)) & 3) << 4) + 128 - 32);
  }
  for (int h = 0; h < 2; ++h)
    out.scale[h] = half_at(b + 208) * static_cast<float>(static_cast<int8_t>(b[192 + 2 * i + h]));
}

constexpr BlockType kTypes[] = {
    {"Q8_0", 32, 34, {8, 128, 1, false, false}, nullptr},  // these three are copied by words, below
    {"Q4_0", 32, 18, {4, 8, 1, false, false}, nullptr},      {"Q4_1", 32, 20, {4, 0, 1, false, true}, nullptr},
    {"Q5_0", 32, 22, {8, 128, 1, false, false}, read_q5_0},  {"Q5_1", 32, 24, {8, 0, 1, false, true}, read_q5_1},
    {"Q2_K", 256, 84, {4, 0, 2, true, true}, read_q2_k},     {"Q3_K", 256, 110, {4, 8, 2, true, false}, read_q3_k},
    {"Q4_K", 256, 144, {4, 0, 1, true, true}, read_q4_k},    {"Q5_K", 256, 176, {8, 0, 1, true, true}, read_q5_k},
    {"Q6_K", 256, 210, {8, 128, 2, true, false}, read_q6_k},
};

// The contents of a strip's unused rows: zeros with a scale of 0.
void put_block(const QuantLayout& l, const Block& block, const uint8_t* halves, int64_t lane, uint8_t* to) {
  const int64_t factor_bytes = quant_factor_bytes(l);
  for (int h = 0; h < l.halves; ++h) {
    const int64_t at = h * kStripRows + lane;
    if (l.float_scales) {
      std::memcpy(to + 4 * at, &block.scale[h], 4);
      if (l.minima) std::memcpy(to + factor_bytes + 4 * at, &block.minimum[h], 4);
    } else {
      std::memcpy(to + 2 * at, halves, 2);
      if (l.minima) std::memcpy(to + factor_bytes + 2 * at, halves + 2, 2);
    }
  }
  uint8_t* q = to + factor_bytes * (l.minima ? 2 : 1);
  for (int word = 0; word < l.bits; ++word)
    for (int c = 0; c < 4; ++c) {
      const int at = 4 * word + c;
      q[4 * (word * kStripRows + lane) + c] =
          l.bits == 8 ? block.q[at] : static_cast<uint8_t>(block.q[at] | block.q[at + 16] << 4);
    }
}

// Q8_0, Q4_0 and Q4_1 already store the words of a strip.
void put_words(const QuantLayout& l, const uint8_t* block, int64_t lane, uint8_t* to) {
  const int64_t factor_bytes = quant_factor_bytes(l);
  std::memcpy(to + 2 * lane, block, 2);
  if (l.minima) std::memcpy(to + factor_bytes + 2 * lane, block + 2, 2);
  const uint8_t* q = block + (l.minima ? 4 : 2);
  uint8_t* words = to + factor_bytes * (l.minima ? 2 : 1);
  for (int word = 0; word < l.bits; ++word) {
    uint32_t w;
    std::memcpy(&w, q + 4 * word, 4);
    if (l.bits == 8) w ^= 0x80808080u;  // signed to unsigned
    std::memcpy(words + 4 * (word * kStripRows + lane), &w, 4);
  }
}

}  // namespace

QuantizedMatrix::QuantizedMatrix(int64_t K, Device device) : K_(K), device_(device) {
  if (K < 0 || K % kQuantBlock) fail("quantized_matrix", "a row length that is a multiple of 32", std::to_string(K));
}

void QuantizedMatrix::add(const std::string& name, const Tensor& given) {
  const char* op = "quantized_matrix";
  const BlockType* type = nullptr;
  for (const BlockType& t : kTypes)
    if (name == t.name) type = &t;
  if (!type) fail(op, "a block type of GGUF (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K)", name);
  if (K_ % type->elements)
    fail(op, "a row length that is a multiple of " + std::to_string(type->elements), std::to_string(K_));
  check_dtype(op, "blocks", given, DType::kU8);
  const int64_t row_bytes = K_ / type->elements * type->bytes;
  if (given.ndim() != 2 || given.dim(1) != row_bytes)
    fail(op, "blocks (rows, " + std::to_string(row_bytes) + ")", to_string(given.shape()));
  const Tensor blocks = given.contiguous();
  const QuantLayout& l = type->layout;
  const int64_t rows = blocks.dim(0), strips = ceil_div(rows, kStripRows);
  const int64_t in_row = K_ / kQuantBlock, block_bytes = quant_block_bytes(l);
  Part part{l, N_, rows, Tensor::empty({strips * in_row * block_bytes}, DType::kU8)};
  if (rows % kStripRows) part.data.zero();
  struct Context {
    const BlockType* type;
    const uint8_t* from;
    uint8_t* to;
    int64_t rows, row_bytes, in_row, block_bytes;
  } context{type, blocks.data_as<uint8_t>(), part.data.data_as<uint8_t>(), rows, row_bytes, in_row, block_bytes};
  parallel_for(
      strips,
      [](void* pointer, int64_t strip) {
        const Context& c = *static_cast<Context*>(pointer);
        const int64_t in_block = c.type->elements / kQuantBlock;
        for (int64_t lane = 0; lane < kStripRows && strip * kStripRows + lane < c.rows; ++lane) {
          const uint8_t* row = c.from + (strip * kStripRows + lane) * c.row_bytes;
          for (int64_t b = 0; b < c.in_row; ++b) {
            const uint8_t* block = row + b / in_block * c.type->bytes;
            uint8_t* to = c.to + (strip * c.in_row + b) * c.block_bytes;
            if (!c.type->read) {
              put_words(c.type->layout, block, lane, to);
              continue;
            }
            Block read;
            c.type->read(block, static_cast<int>(b % in_block), read);
            put_block(c.type->layout, read, block, lane, to);
          }
        }
      },
      &context);
  part.data = part.data.to(device_);
  parts_.push_back(std::move(part));
  N_ += rows;
}

int64_t QuantizedMatrix::bytes() const {
  int64_t total = 0;
  for (const Part& part : parts_) total += part.data.size();
  return total;
}

Tensor quantized_linear(const Tensor& x_in, const QuantizedMatrix& weight, const std::optional<Tensor>& bias_in,
                        const std::optional<Tensor>& residual_in, Activation act, DType out_dtype,
                        const QuantizedInput& input) {
  const char* op = "quantized_linear";
  check_float(op, "x", x_in);
  check_ndim(op, "x", x_in, 1);
  const bool gated = input.source == ActivationSource::kSwiglu || input.source == ActivationSource::kGeglu;
  const int64_t columns = gated ? 2 * weight.K() : weight.K();
  check_device(op, "x, like the weight,", x_in, weight.device());
  if (x_in.dim(-1) != columns) fail(op, "x (..., " + std::to_string(columns) + ")", to_string(x_in.shape()));
  Tensor norm_weight;
  if (input.source == ActivationSource::kRmsNorm) {
    if (!input.norm_weight) fail(op, "norm_weight for an RMS norm", "none");
    check_dtype(op, "norm_weight", *input.norm_weight, DType::kF32);
    check_shape(op, "norm_weight", *input.norm_weight, {weight.K()});
    check_device(op, "norm_weight", *input.norm_weight, weight.device());
    norm_weight = input.norm_weight->contiguous();
  }
  if (out_dtype != DType::kF32 && out_dtype != x_in.dtype())
    fail_type(op, std::string("output float32 or ") + name_of(x_in.dtype()), name_of(out_dtype));
  if (act != Activation::kNone) {
    Tensor out =
        activate(act, quantized_linear(x_in, weight, bias_in, std::nullopt, Activation::kNone, out_dtype, input));
    return residual_in ? binary(op, &KernelTable::add, out, *residual_in) : out;
  }
  const Tensor x = x_in.contiguous();
  const int64_t N = weight.N(), K = weight.K(), M = leading_rows(x);
  Tensor out = Tensor::empty(with_last(x, N), out_dtype, x.device());
  Tensor bias, residual;
  if (bias_in) {
    check_dtype(op, "bias", *bias_in, DType::kF32);
    check_shape(op, "bias", *bias_in, {N});
    check_device(op, "bias", *bias_in, weight.device());
    bias = bias_in->contiguous();
  }
  if (residual_in) {
    check_like(op, "residual", *residual_in, out);
    residual = residual_in->contiguous();
  }
  // Rows a power of two apart would all map to the same cache sets.
  const int64_t ldx = K / kQuantBlock + 1;
  const Tensor blocks =
      Tensor::empty({M * ldx * static_cast<int64_t>(sizeof(ActivationBlock))}, DType::kU8, x.device());
  ActivationBlock* const rows = static_cast<ActivationBlock*>(blocks.data());
  kernel(op, x.device(), &KernelTable::quantize_activations)(
      {x.dtype(), M, K, x.data(), rows, ldx, input.source,
       norm_weight.defined() ? norm_weight.data_as<float>() : nullptr, input.eps});
  const auto offset = [&](const Tensor& t, int64_t column) {
    return static_cast<char*>(t.data()) + column * static_cast<int64_t>(size_of(out_dtype));
  };
  for (const QuantizedMatrix::Part& part : weight.parts())
    kernel(op, x.device(), &KernelTable::quantized_gemm)(
        {M, part.rows, K, part.layout, part.data.data_as<uint8_t>(), rows, ldx, offset(out, part.first), N, out_dtype,
         bias_in ? bias.data_as<float>() + part.first : nullptr, residual_in ? offset(residual, part.first) : nullptr});
  return out;
}

Tensor quantized_rows(const QuantizedMatrix& weight, const Tensor& ids_in, DType dtype) {
  const char* op = "quantized_rows";
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type(op, "dtype float32 or bfloat16", name_of(dtype));
  if (weight.parts().size() != 1) fail(op, "a matrix of one part", std::to_string(weight.parts().size()));
  const Tensor ids = checked_ids(op, "ids", ids_in, 0, weight.N(), weight.device());
  Shape shape = ids.shape();
  shape.push_back(weight.K());
  Tensor out = Tensor::empty(shape, dtype, weight.device());
  const QuantizedMatrix::Part& part = weight.parts()[0];
  kernel(op, out.device(), &KernelTable::dequantize_rows)(
      {part.layout, ids.size(), weight.K(), part.data.data_as<uint8_t>(), ids.data_as<int32_t>(), out.data(), dtype});
  return out;
}

Tensor quantized_values(const QuantizedMatrix& weight, DType dtype) {
  const char* op = "quantized_values";
  if (dtype != DType::kF32 && dtype != DType::kBF16) fail_type(op, "dtype float32 or bfloat16", name_of(dtype));
  Tensor out = Tensor::empty({weight.N(), weight.K()}, dtype, weight.device());
  for (const QuantizedMatrix::Part& part : weight.parts()) {
    const Tensor ids = Tensor::empty({part.rows}, DType::kI32);
    std::iota(ids.data_as<int32_t>(), ids.data_as<int32_t>() + part.rows, 0);
    const Tensor there = ids.to(weight.device());
    kernel(op, out.device(), &KernelTable::dequantize_rows)({part.layout, part.rows, weight.K(),
                                                             part.data.data_as<uint8_t>(), there.data_as<int32_t>(),
                                                             out.narrow(0, part.first, part.rows).data(), dtype});
  }
  return out;
}

}  // namespace llmcore

#include "core/tensor.h"

#include <cstring>

#include "core/allocator.h"
#include "core/check.h"
#include "core/device.h"
#include "core/plan.h"

namespace llmcore {
namespace {

int64_t checked_size(const Shape& shape, DType dtype) {
  // Sizes of 0 are left out of the product, so that the strides of an empty tensor cannot overflow either.
  int64_t n = 1;
  bool is_empty = false;
  for (int64_t d : shape) {
    if (d < 0) fail("tensor", "sizes >= 0", to_string(shape));
    is_empty = is_empty || d == 0;
    if (d > 0 && __builtin_mul_overflow(n, d, &n)) fail("tensor", "fewer than 2^46 bytes", to_string(shape));
  }
  if (n > (int64_t{1} << 46) / static_cast<int64_t>(size_of(dtype)))
    fail("tensor", "fewer than 2^46 bytes", to_string(shape) + " " + name_of(dtype));
  return is_empty ? 0 : n;
}

void copy_strided(const char* src, const int64_t* src_stride, char* dst, const int64_t* dst_stride,
                  const int64_t* shape, int ndim, size_t item) {
  if (ndim == 0) {
    std::memcpy(dst, src, item);
    return;
  }
  if (ndim == 1 && src_stride[0] == 1 && dst_stride[0] == 1) {
    std::memcpy(dst, src, item * static_cast<size_t>(shape[0]));
    return;
  }
  const int64_t bytes = static_cast<int64_t>(item);
  for (int64_t i = 0; i < shape[0]; ++i)
    copy_strided(src + i * src_stride[0] * bytes, src_stride + 1, dst + i * dst_stride[0] * bytes, dst_stride + 1,
                 shape + 1, ndim - 1, item);
}

std::shared_ptr<void> allocated(size_t bytes, Device device) {
  if (device == Device::kCPU) return std::shared_ptr<void>(allocate(bytes), [bytes](void* p) { deallocate(p, bytes); });
  const CudaApi& api = cuda();
  void* const p = api.allocate(bytes);
  if (!p) check_cuda("tensor");
  return std::shared_ptr<void>(p, [bytes, &api](void* memory) { api.deallocate(memory, bytes); });
}

size_t bytes_of(const Tensor& t) { return static_cast<size_t>(t.size()) * size_of(t.dtype()); }

}  // namespace

std::string to_string(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  Tensor t;
  t.size_ = checked_size(shape, dtype);
  const size_t bytes = static_cast<size_t>(t.size_) * size_of(dtype);
  Plan* plan = Plan::recording();
  if (plan) t.storage_ = plan->reuse(bytes, device);
  if (!t.storage_) {
    t.storage_ = allocated(bytes, device);
    if (plan) plan->keep(t.storage_, bytes, device);
  }
  t.base_ = t.storage_.get();
  t.strides_ = contiguous_strides(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.device_ = device;
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(std::move(shape), dtype, device);
  t.zero();
  return t;
}

Tensor Tensor::wrap(void* data, Shape shape, Shape strides, DType dtype, std::shared_ptr<void> owner, bool writable,
                    Device device) {
  Tensor t;
  t.size_ = checked_size(shape, dtype);
  t.base_ = data;
  t.storage_ = std::move(owner);
  t.shape_ = std::move(shape);
  t.strides_ = std::move(strides);
  t.dtype_ = dtype;
  t.writable_ = writable;
  t.device_ = device;
  return t;
}

bool Tensor::is_contiguous() const {
  int64_t step = 1;
  for (int i = ndim() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != step) return size_ == 0;
    step *= shape_[i];
  }
  return true;
}

Tensor Tensor::contiguous() const {
  if (is_contiguous()) return *this;
  Tensor out = empty_like(*this);
  copy_into(*this, out);
  return out;
}

Tensor Tensor::reshape(Shape shape) const {
  int64_t known = 1;
  int unknown = -1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != -1) {
      if (__builtin_mul_overflow(known, shape[i], &known))
        fail("reshape", "a shape of " + std::to_string(size_) + " elements", to_string(shape));
    } else if (unknown < 0) {
      unknown = static_cast<int>(i);
    } else {
      fail("reshape", "at most one -1", to_string(shape));
    }
  }
  if (unknown >= 0) {
    if (known <= 0 || size_ % known)
      fail("reshape", "a shape of " + std::to_string(size_) + " elements", to_string(shape));
    shape[unknown] = size_ / known;
  }
  if (checked_size(shape, dtype_) != size_)
    fail("reshape", "a shape of " + std::to_string(size_) + " elements", to_string(shape));
  Tensor t = contiguous();
  t.strides_ = contiguous_strides(shape);
  t.shape_ = std::move(shape);
  return t;
}

Tensor Tensor::narrow(int dim, int64_t start, int64_t length) const {
  if (dim < 0) dim += ndim();
  if (dim < 0 || dim >= ndim() || start < 0 || length < 0 || start > shape_[dim] || length > shape_[dim] - start)
    fail("narrow", "a range inside " + to_string(shape_),
         "dim " + std::to_string(dim) + ", " + std::to_string(length) + " from " + std::to_string(start));
  Tensor t = *this;
  t.size_ = shape_[dim] ? size_ / shape_[dim] * length : 0;
  t.shape_[dim] = length;
  t.offset_ += start * strides_[dim];
  return t;
}

Tensor Tensor::as_strided(Shape shape, Shape strides, int64_t offset) const {
  Tensor t = *this;
  t.size_ = checked_size(shape, dtype_);
  t.shape_ = std::move(shape);
  t.strides_ = std::move(strides);
  t.offset_ = offset;
  return t;
}

void Tensor::zero() {
  if (!is_contiguous()) return copy_into(zeros(shape_, dtype_, device_), *this);
  if (!writable_) fail("zero", "writable memory", "a read-only array");
  if (size_ == 0) return;
  const auto clear = [t = *this] {
    if (t.device_ == Device::kCUDA)
      cuda().zero(t.data(), bytes_of(t));
    else
      std::memset(t.data(), 0, bytes_of(t));
  };
  clear();
  if (device_ == Device::kCUDA) check_cuda("zero");
  if (Plan* plan = Plan::recording()) plan->add(device_, clear);
}

Tensor Tensor::to(Device device) const {
  if (device == device_) return *this;
  if (device == Device::kCUDA) {
    if (Plan* plan = Plan::recording()) return plan->uploaded(*this);
  } else if (Plan::recording()) {
    throw std::runtime_error("[plan] expected a step that stays on the device, got a copy to the host");
  }
  const Tensor out = empty(shape_, dtype_, device);
  copy_into(contiguous(), out);
  return out;
}

namespace {

void copy_on_device(const Tensor& src, const Tensor& dst) {
  if (src.is_contiguous() && dst.is_contiguous()) return cuda().copy(dst.data(), src.data(), bytes_of(src));
  StridedCopyArgs a{};
  a.ndim = src.ndim(), a.item = static_cast<int64_t>(size_of(src.dtype())), a.from = src.data(), a.to = dst.data();
  for (int i = 0; i < a.ndim; ++i)
    a.shape[i] = src.dim(i), a.from_stride[i] = src.stride(i), a.to_stride[i] = dst.stride(i);
  cuda().copy_strided(a);
}

void copy_elements(const Tensor& src, const Tensor& dst) {
  if (src.device() == Device::kCUDA) return copy_on_device(src, dst);
  copy_strided(src.data_as<char>(), src.strides().data(), dst.data_as<char>(), dst.strides().data(), src.shape().data(),
               src.ndim(), size_of(src.dtype()));
}

// Only contiguous stretches are transferred: a strided tensor goes by way of a copy.
void copy_across(const Tensor& src, const Tensor& dst) {
  if (Plan::recording()) return copy_into(src.to(dst.device()), dst);
  if (!src.is_contiguous()) return copy_across(src.contiguous(), dst);
  if (!dst.is_contiguous()) return copy_into(src.to(dst.device()), dst);
  if (dst.device() == Device::kCUDA)
    cuda().to_device(dst.data(), src.data(), bytes_of(src));
  else
    cuda().to_host(dst.data(), src.data(), bytes_of(src));
  check_cuda("copy");
}

}  // namespace

void copy_into(const Tensor& src, const Tensor& dst) {
  if (src.shape() != dst.shape() || src.dtype() != dst.dtype())
    fail("copy", to_string(dst.shape()) + " " + name_of(dst.dtype()),
         to_string(src.shape()) + " " + name_of(src.dtype()));
  if (!dst.writable()) fail("copy", "a writable destination", "a read-only array");
  if (src.size() == 0) return;
  if (src.ndim() > kMostDimensions && src.device() == Device::kCUDA)
    fail("copy", "at most " + std::to_string(kMostDimensions) + " dimensions", to_string(src.shape()));
  if (src.device() != dst.device()) return copy_across(src, dst);
  copy_elements(src, dst);
  if (src.device() == Device::kCUDA) check_cuda("copy");
  if (Plan* plan = Plan::recording()) plan->add(src.device(), [src, dst] { copy_elements(src, dst); });
}

Tensor concat(const std::vector<Tensor>& parts, int dim) {
  const char* op = "concat";
  if (parts.empty()) fail(op, "at least one tensor", "none");
  const Tensor& first = parts[0];
  if (dim < 0) dim += first.ndim();
  if (dim < 0 || dim >= first.ndim()) fail(op, "a dimension of " + to_string(first.shape()), std::to_string(dim));
  Shape shape = first.shape();
  shape[dim] = 0;
  bool neighbours = true;
  for (const Tensor& p : parts) {
    Shape other = p.shape();
    if (p.dtype() != first.dtype())
      fail_type(op, std::string("all parts ") + name_of(first.dtype()), name_of(p.dtype()));
    if (p.device() != first.device())
      fail(op, std::string("all parts on ") + name_of(first.device()), name_of(p.device()));
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

// A tensor: shared storage, an offset, a shape and strides. Views share storage; each op states which layouts it takes.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace llmcore {

using Shape = std::vector<int64_t>;

std::string to_string(const Shape& shape);  // "(2, 3)"

class Tensor {
 public:
  Tensor() = default;

  // Uninitialised / zeroed memory. Throws std::invalid_argument for negative or impossibly large sizes, std::bad_alloc
  // when there is no memory.
  static Tensor empty(Shape shape, DType dtype, Device device = Device::kCPU);
  static Tensor zeros(Shape shape, DType dtype, Device device = Device::kCPU);
  static Tensor empty_like(const Tensor& t) { return empty(t.shape_, t.dtype_, t.device_); }
  // Wraps memory that somebody else owns and that `owner` keeps alive. Strides in elements.
  static Tensor wrap(void* data, Shape shape, Shape strides, DType dtype, std::shared_ptr<void> owner, bool writable,
                     Device device = Device::kCPU);

  bool writable() const { return writable_; }  // false for memory lent for reading only, and for views of it
  bool defined() const { return storage_ != nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int ndim() const { return static_cast<int>(shape_.size()); }
  int64_t size() const { return size_; }                               // elements
  int64_t dim(int i) const { return shape_[i < 0 ? i + ndim() : i]; }  // a negative i counts from the end
  int64_t stride(int i) const { return strides_[i < 0 ? i + ndim() : i]; }
  int64_t offset() const { return offset_; }  // elements from the start of the storage
  const std::shared_ptr<void>& storage() const { return storage_; }

  void* data() const { return static_cast<char*>(base_) + offset_ * static_cast<int64_t>(size_of(dtype_)); }
  template <class T>
  T* data_as() const {
    return static_cast<T*>(data());
  }

  bool is_contiguous() const;
  Tensor contiguous() const;                                            // itself when contiguous, else a copy
  Tensor reshape(Shape shape) const;                                    // contiguous tensors only; one -1 is inferred
  Tensor narrow(int dim, int64_t start, int64_t length) const;          // a view
  Tensor as_strided(Shape shape, Shape strides, int64_t offset) const;  // a view; offset from the start of the storage
  void zero();
  // Returns this tensor if it is already there, else a copy. To the device: the source has been read when this returns,
  // and in a plan it is copied again at every replay. To the host: waits for the device; not allowed in a plan.
  Tensor to(Device device) const;

 private:
  std::shared_ptr<void> storage_;  // keeps the memory alive
  void* base_ = nullptr;
  Shape shape_, strides_;
  int64_t offset_ = 0, size_ = 0;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kCPU;
  bool writable_ = true;
};

Shape contiguous_strides(const Shape& shape);
// Copies elements between two tensors of the same shape and dtype, with any strides, on any devices.
void copy_into(const Tensor& src, const Tensor& dst);
// Concatenates tensors along `dim`: a view if they are adjacent in one storage, else a copy.
Tensor concat(const std::vector<Tensor>& parts, int dim);

}  // namespace llmcore

// A growing array of ids whose memory can be handed over without a copy, for example to numpy.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace llmcore::tok {

class IdBuffer {
 public:
  IdBuffer() = default;
  IdBuffer(IdBuffer&& other) noexcept { swap(other); }
  IdBuffer& operator=(IdBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  IdBuffer(const IdBuffer&) = delete;
  IdBuffer& operator=(const IdBuffer&) = delete;
  ~IdBuffer() { std::free(data_); }

  size_t size() const { return size_; }
  uint32_t* data() { return data_; }
  const uint32_t* data() const { return data_; }
  const uint32_t* begin() const { return data_; }
  const uint32_t* end() const { return data_ + size_; }

  // Makes room for `extra` more ids: write them there, then commit them.
  uint32_t* reserve(size_t extra) {
    if (capacity_ - size_ < extra) grow(extra);
    return data_ + size_;
  }
  void commit(size_t count) { size_ += count; }
  void truncate(size_t size) { size_ = size; }
  // Commits what was written from data_ + size() up to `end`.
  void commit_to(const uint32_t* end) { size_ = static_cast<size_t>(end - data_); }
  void append(const uint32_t* ids, size_t count) {
    std::copy(ids, ids + count, reserve(count));
    commit(count);
  }
  void push(uint32_t id) {
    *reserve(1) = id;
    commit(1);
  }

  // Gives the memory away; free it with std::free.
  uint32_t* release() {
    size_ = capacity_ = 0;
    return std::exchange(data_, nullptr);
  }

 private:
  void grow(size_t extra) {
    size_t capacity = capacity_ < 64 ? 64 : capacity_ + capacity_ / 2;
    if (capacity < size_ + extra) capacity = size_ + extra;
    void* memory = std::realloc(data_, capacity * sizeof(uint32_t));
    if (!memory) throw std::bad_alloc();
    data_ = static_cast<uint32_t*>(memory);
    capacity_ = capacity;
  }
  void swap(IdBuffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  uint32_t* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace llmcore::tok

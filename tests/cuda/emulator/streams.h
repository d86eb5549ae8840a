// Streams and captures, shared by the functions of CUDA's runtime.
#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "cuda_runtime.h"

struct CUstream_st {
  unsigned flags = 0;
  std::shared_ptr<struct Capture> capture;
};

// A capture: the stream where it began and those that joined it by events.
struct Capture {
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool invalid = false;
  std::vector<std::function<void()>> nodes;
  std::set<cudaStream_t> unjoined;  // streams with work that the origin has not waited for
};

namespace llmcore_emulator {

using Node = std::function<void()>;
using Stream = CUstream_st;
using Lock = std::lock_guard<std::recursive_mutex>;

constexpr size_t kSharedDefault = size_t{48} << 10, kSharedMost = size_t{227} << 10;  // of a block

#pragma GCC visibility push(hidden)
std::recursive_mutex& mutex();    // guards everything here
cudaError_t result(cudaError_t);  // what a call returns; keeps an error for cudaGetLastError
int device_count();

std::set<Stream*>& streams();
Stream* legacy_stream();
Stream* find(cudaStream_t);  // null: no such stream
bool captured(cudaStream_t);
void exchange_capture_mode(cudaStreamCaptureMode*);  // for this thread

// Whether a call is forbidden now; an attempt invalidates the captures that forbid it. For calls that may wait for the
// device, which a capture may forbid to the whole process or to its thread:
bool forbidden();
// For calls that wait for the whole device:
bool any_capture();
// For work on the legacy stream, which waits for all streams that are not cudaStreamNonBlocking:
bool legacy_would_wait();

// Does the work at once or later (LLMCORE_EMULATOR_LATE), or records it if the stream is being captured.
cudaError_t submit(cudaStream_t, Node);
bool late();
void drain();  // does all waiting work
#pragma GCC visibility pop

}  // namespace llmcore_emulator

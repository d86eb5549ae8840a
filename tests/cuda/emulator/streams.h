// Streams and captures: what the functions of CUDA's runtime share.
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
  std::set<cudaStream_t> unjoined;  // have work that the origin has not waited for
};

namespace llmcore_emulator {

using Node = std::function<void()>;
using Stream = CUstream_st;
using Lock = std::lock_guard<std::recursive_mutex>;

constexpr size_t kSharedDefault = size_t{48} << 10, kSharedMost = size_t{227} << 10;  // of a block

#pragma GCC visibility push(hidden)
std::recursive_mutex& mutex();    // of all that is here
cudaError_t result(cudaError_t);  // what a call returns; keeps an error for cudaGetLastError
int device_count();

std::set<Stream*>& streams();
Stream* legacy_stream();
Stream* find(cudaStream_t);  // null: no such stream
bool captured(cudaStream_t);
void exchange_capture_mode(cudaStreamCaptureMode*);  // of this thread

// Whether a call is forbidden now; to try invalidates the captures that forbid it. What may wait for the device, as
// captures may ask of the whole process or of their thread:
bool forbidden();
// What waits for the whole device:
bool any_capture();
// The legacy stream's work, which waits for all streams that are not cudaStreamNonBlocking:
bool legacy_would_wait();

// Does it at once, or later (LLMCORE_EMULATOR_LATE), or records it where the stream is captured.
cudaError_t submit(cudaStream_t, Node);
bool late();
void drain();  // does all that waits
#pragma GCC visibility pop

}  // namespace llmcore_emulator

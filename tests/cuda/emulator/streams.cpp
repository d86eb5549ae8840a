#include "streams.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "memory.h"

namespace llmcore_emulator {
namespace {

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

std::vector<Node>& waiting() {  // of all streams, in the order of the calls
  static auto* const nodes = new std::vector<Node>;
  return *nodes;
}

}  // namespace

std::recursive_mutex& mutex() {
  static auto* const m = new std::recursive_mutex;
  return *m;
}

std::set<Stream*>& streams() {
  static auto* const s = new std::set<Stream*>;
  return *s;
}

Stream* legacy_stream() {
  static Stream* const s = new Stream;
  return s;
}

Stream* find(cudaStream_t s) {
  if (!s) return legacy_stream();
  return streams().count(s) ? s : nullptr;
}

bool forbidden() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return false;
  bool found = false;
  for (Stream* s : streams()) {
    if (!s->capture) continue;
    const Capture& c = *s->capture;
    if (c.mode == cudaStreamCaptureModeRelaxed) continue;
    const bool own = c.thread == std::this_thread::get_id();
    if (own || (c.mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal)) {
      s->capture->invalid = true;
      found = true;
    }
  }
  return found;
}

bool any_capture() {
  bool found = false;
  for (Stream* s : streams())
    if (s->capture) s->capture->invalid = found = true;
  return found;
}

bool legacy_would_wait() {
  bool found = false;
  for (Stream* s : streams())
    if (s->capture && !(s->flags & cudaStreamNonBlocking)) s->capture->invalid = found = true;
  return found;
}

void exchange_capture_mode(cudaStreamCaptureMode* mode) { std::swap(*mode, thread_mode); }

// ---- work -------------------------------------------------------------------------------------------

bool late() {
  static const bool value = [] {
    const char* text = std::getenv("LLMCORE_EMULATOR_LATE");
    return text && *text && std::strcmp(text, "0");
  }();
  return value;
}
void drain() {
  if (waiting().empty()) return;
  DeviceAccess access;
  const std::vector<Node> nodes = std::move(waiting());
  waiting().clear();
  for (const Node& node : nodes) node();
}

bool captured(cudaStream_t stream) {
  const Stream* const s = find(stream);
  return s && s->capture;
}

cudaError_t submit(cudaStream_t stream, Node node) {
  constexpr size_t kMostWaiting = 4096;
  Stream* const s = find(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (s == legacy_stream() && legacy_would_wait()) return cudaErrorStreamCaptureImplicit;
  if (!s->capture) {
    waiting().push_back(std::move(node));
    if (!late() || waiting().size() == kMostWaiting) drain();
    return cudaSuccess;
  }
  if (s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  s->capture->nodes.push_back(std::move(node));
  if (s != s->capture->origin) s->capture->unjoined.insert(s);
  return cudaSuccess;
}

}  // namespace llmcore_emulator

// Streams, events and graphs. All work is done at once, in the order of the calls, or with LLMCORE_EMULATOR_LATE as
// late as possible: when somebody waits for a stream or an event. Work for a captured stream is recorded, and done when
// its graph is launched.
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "streams.h"

using namespace llmcore_emulator;

struct CUevent_st {
  unsigned flags = 0;
  bool recorded = false;
  std::shared_ptr<std::chrono::steady_clock::time_point> at;
  std::weak_ptr<Capture> capture;  // where it was last recorded
  bool captured = false;
  cudaStream_t stream = nullptr;
};
struct CUgraph_st {
  std::vector<Node> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Node>> nodes;
};

namespace {

void invalidate(Stream* s) {
  if (s->capture) s->capture->invalid = true;
}

}  // namespace

extern "C" {

// ---- streams ----------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Lock lock(mutex());
  if (!stream || flags > cudaStreamNonBlocking) return result(cudaErrorInvalidValue);
  auto* const s = new Stream;
  s->flags = flags;
  streams().insert(s);
  *stream = s;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s || s == legacy_stream()) return result(cudaErrorInvalidResourceHandle);
  invalidate(s);
  streams().erase(s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (s->capture) {
    invalidate(s);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  drain();
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return cudaStreamQuery(stream); }
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* data) {
  Lock lock(mutex());
  if (!function) return result(cudaErrorInvalidValue);
  return result(submit(stream, [=] { function(data); }));
}
void llmcore_emulator_enqueue(cudaStream_t stream, void (*work)(void*), void* data, void (*destroy)(void*)) {
  Lock lock(mutex());
  const std::shared_ptr<void> kept(data, destroy);
  result(submit(stream, [=] { work(kept.get()); }));
}

// ---- events -----------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (!event) return result(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->flags = flags;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(mutex());
  if (!event) return result(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s || !event) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (s->capture && s->capture->invalid) return result(cudaErrorStreamCaptureInvalidated);
  event->recorded = true;
  event->captured = s->capture != nullptr;
  event->capture = s->capture;
  event->stream = stream;
  event->at = std::make_shared<std::chrono::steady_clock::time_point>();
  if (event->captured) return cudaSuccess;
  return result(submit(stream, [at = event->at] { *at = std::chrono::steady_clock::now(); }));
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(mutex());
  if (!event) return result(cudaErrorInvalidResourceHandle);
  if (event->captured) {
    if (auto c = event->capture.lock()) c->invalid = true;
    return result(cudaErrorCapturedEvent);
  }
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  drain();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaEventQuery(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  Lock lock(mutex());
  if (!from || !to || !from->recorded || !to->recorded || (from->flags | to->flags) & cudaEventDisableTiming)
    return result(cudaErrorInvalidResourceHandle);
  if (from->captured || to->captured) return result(cudaErrorCapturedEvent);
  drain();
  *milliseconds = std::chrono::duration<float, std::milli>(*to->at - *from->at).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s || !event) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  if (!event->captured) {
    if (!s->capture || !event->recorded) return cudaSuccess;
    invalidate(s);
    return result(cudaErrorStreamCaptureIsolation);
  }
  const std::shared_ptr<Capture> c = event->capture.lock();
  if (!c) return result(cudaErrorCapturedEvent);
  if (c->invalid) return result(cudaErrorStreamCaptureInvalidated);
  if (s->capture && s->capture != c) {
    s->capture->invalid = c->invalid = true;
    return result(cudaErrorStreamCaptureMerge);
  }
  if (s == legacy_stream()) {
    c->invalid = true;
    return result(cudaErrorStreamCaptureImplicit);
  }
  s->capture = c;
  if (s != c->origin) c->unjoined.insert(s);
  if (event->stream != c->origin && stream != event->stream) c->unjoined.erase(event->stream);
  return cudaSuccess;
}

// ---- graphs -----------------------------------------------------------------------------------------

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  exchange_capture_mode(mode);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) return result(cudaErrorInvalidValue);
  if (s == legacy_stream()) return result(cudaErrorStreamCaptureUnsupported);
  if (s->capture) return result(cudaErrorIllegalState);
  s->capture = std::make_shared<Capture>();
  s->capture->origin = stream;
  s->capture->mode = mode;
  s->capture->thread = std::this_thread::get_id();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  *graph = nullptr;
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (!s->capture) return result(cudaErrorIllegalState);
  const std::shared_ptr<Capture> c = s->capture;
  if (c->origin != stream) {
    c->invalid = true;
    return result(cudaErrorStreamCaptureUnmatched);
  }
  if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
    return result(cudaErrorStreamCaptureWrongThread);
  for (Stream* other : streams())
    if (other->capture == c) other->capture = nullptr;
  if (c->invalid) return result(cudaErrorStreamCaptureInvalidated);
  if (!c->unjoined.empty()) return result(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(c->nodes)};
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(mutex());
  Stream* const s = find(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (s == legacy_stream() && legacy_would_wait()) return result(cudaErrorStreamCaptureImplicit);
  *status = !s->capture           ? cudaStreamCaptureStatusNone
            : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  Lock lock(mutex());
  if (!ready || !graph) return result(cudaErrorInvalidValue);
  *ready = new CUgraphExec_st{std::make_shared<const std::vector<Node>>(graph->nodes)};
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, struct CUgraphNode_st** nodes, size_t* count) {
  Lock lock(mutex());
  if (!graph || !count || nodes) return result(cudaErrorInvalidValue);
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream) {
  Lock lock(mutex());
  return result(graph && find(stream) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  return result(submit(stream, [nodes = graph->nodes] {
    for (const Node& node : *nodes) node();
  }));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  Lock lock(mutex());
  if (!graph) return result(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}

}  // extern "C"

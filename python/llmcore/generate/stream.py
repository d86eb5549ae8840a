"""`Stream`: a completion piece by piece, whose request ends with it."""

from __future__ import annotations

from collections.abc import Iterator

from llmcore._processes import NotCopied
from llmcore.generate.engine.allowed import note_end
from llmcore.generate.engine.engine import Engine
from llmcore.generate.engine.request import Request
from llmcore.generate.text import Completion, CompletionSink


class Stream(NotCopied, Iterator[str]):
    """Yields the text of a completion as it is generated. `completion`: what there is of it so far.

    The request begins with the stream and ends with it, however that ends: read to its end, closed, left by an exception,
    or dropped unread. Any thread may close it, also while another reads.
    """

    def __init__(self, engine: Engine, request: Request, sink: CompletionSink):
        self._engine, self._request, self._sink = engine, request, sink
        self._closed = self._completed = False
        try:
            engine.submit(request)
        except BaseException:
            engine.abandon(request)
            raise

    @property
    def completion(self) -> Completion:
        return self._sink.completion

    def __next__(self) -> str:
        try:
            while not self._closed:
                if self._sink.settled:
                    return self._sink.settled.pop(0)
                if not self._request.done:
                    self._engine.step_for(self._request)
                elif not self._completed:
                    self._completed = True
                    completed(self._request, self._sink)
                else:
                    self._closed = True
                    if self._request.error is not None:
                        raise self._request.error
            raise StopIteration
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the request. Its blocks are free when this returns."""
        self._closed = True
        self._engine.cancel(self._request)

    def __del__(self) -> None:
        if not self._request.done:
            self._engine.abandon(self._request)

    def _instead(self) -> str:
        return "send the pieces, or str(stream.completion)"


def completed(request: Request, sink: CompletionSink) -> Completion:
    """Return the completion of a request that is done."""
    c = sink.completion
    if request.timed_out:
        sink.end("timeout")
    c.cached_tokens = request.cached_tokens
    note_end(request, c.finish_reason, c.stop_reason is None)
    return c

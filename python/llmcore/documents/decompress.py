"""Files opened for reading, `.gz` and `.zst` decompressed as they are read: memory stays bounded whatever is in them."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO

from llmcore.errors import CorpusError

# A frame may spell 128 KiB with four bytes: so little is given to the decompressor at a time.
_ZSTD_CHUNK = 1 << 10


def open_decompressed(path: Path) -> BinaryIO:
    """Open a file for reading. `CorpusError` where the library for `.zst` is missing; what is wrong with the content is
    raised on reading, as OSError, EOFError or zlib.error."""
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        case ".zst":
            return _open_zstd(path)
    return open(path, "rb")


def _open_zstd(path: Path) -> BinaryIO:
    try:
        from compression import zstd  # Python 3.14  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        pass
    else:
        return zstd.open(path, "rb")
    try:
        import zstandard
    except ImportError:
        raise CorpusError("corpus", f"{path}: reading .zst needs zstandard: pip install zstandard") from None
    return io.BufferedReader(_ZstdReader(path, zstandard), 1 << 20)


class _ZstdReader(io.RawIOBase):
    """The frames of a file one after another. (`zstandard`'s own reader takes a truncated file for a whole one.)"""

    def __init__(self, path: Path, zstandard: Any):
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._zstandard = zstandard
        self._frame: Any = None
        self._input, self._output = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._file.read(_ZSTD_CHUNK)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            if self._frame is None:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(self._input))
            except self._zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()

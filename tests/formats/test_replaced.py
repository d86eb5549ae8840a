"""Files that are replaced as a whole: never anything that is no file, and what was there stays when writing fails."""

import os
import threading

import numpy as np
import pytest

from llmcore._files import write_atomically
from llmcore.formats import gguf_writer, safetensors
from llmcore.formats.replaced import replaced

WRITERS = {
    "safetensors": lambda path: safetensors.save_file({"a": np.zeros(3, np.float32)}, path),
    "gguf": lambda path: gguf_writer.save_gguf(path, {"general.architecture": "llama"}, []),
    "bytes": lambda path: write_atomically(path, b"new"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_file_stays(tmp_path, name):
    """A pipe stands for a device, such as /dev/null: renaming over it would take it from everybody."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for path in ("pipe", "folder", "link"):
        with pytest.raises((FileExistsError, IsADirectoryError), match=path):
            WRITERS[name](tmp_path / path)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(error):
        with replaced(path) as file:
            file.write(b"half")
            raise error

    for error in (KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises(type(error)) as raised:
            fail(error)
        if isinstance(error, OSError):
            assert raised.value.filename == str(path)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])


def test_threads_write_one_file(tmp_path):
    path = tmp_path / "file"

    def write(i):
        for _ in range(20):
            safetensors.save_file({"a": np.full(1000, i, np.int32)}, path)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(np.unique(safetensors.load_file(path)[0]["a"])) == 1
    assert os.listdir(tmp_path) == ["file"]

"""Files out of paths, folders and globs, and their documents."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from llmcore.documents.decompress import COMPRESSED_ENDINGS
from llmcore.documents.reader import JSONL_ENDINGS, PARQUET_ENDING, read_parts
from llmcore.errors import ArgumentTypeError, CorpusError

# What a folder contributes. A file that is named directly, or matched by a glob, is read whatever its ending.
_PLAIN_ENDINGS = (".txt", ".md", ".rst", ".tex", ".py", *JSONL_ENDINGS, PARQUET_ENDING)
ENDINGS = (*_PLAIN_ENDINGS, *(plain + end for plain in _PLAIN_ENDINGS for end in COMPRESSED_ENDINGS))


def read_documents(source: str | os.PathLike, field: str = "text") -> list[bytes]:
    """The documents of one path or glob, in memory; see `reader.read_parts`. Blank ones are left out.

    Raises `CorpusError` naming what is missing, empty, unreadable or malformed.
    """
    files = find_files(source)
    documents = [document for path in files for document in _whole_documents(path, field)]
    if not documents:
        what = f"{source} is empty" if len(files) == 1 else f"{source}: all {len(files)} files are empty"
        raise CorpusError("corpus", what, expected="some text")
    return documents


def _whole_documents(path: Path, field: str) -> Iterator[bytes]:
    parts = []
    for part in read_parts(path, field):
        parts.append(part.data)
        if part.ends:
            yield b"".join(parts)
            parts.clear()


def find_files(source: str | os.PathLike) -> list[Path]:
    """The files behind a path or glob, sorted. In folders, hidden entries and linked folders are skipped."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise ArgumentTypeError("corpus", expected="a path as str or Path", got=type(source).__name__)
    if not name or "\0" in name:
        raise CorpusError("corpus", expected="the path of a text", got=repr(name))
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            return _folder_files(path)
        if path.is_file():
            return [path]
        if path.exists():
            raise CorpusError("corpus", f"{name} is not a regular file or a folder")
    except OSError as error:
        raise CorpusError("corpus", f"cannot read {error.filename or name}: {error.strerror}") from None
    if not glob.has_magic(name):
        raise CorpusError(
            "corpus", f"{name} does not exist", expected="a text file, folder, glob, .jsonl or .parquet file"
        )
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [match for match in matches if match.is_file()]
    if not files:
        raise CorpusError("corpus", f"no file matches {name}")
    return files


def _folder_files(folder: Path) -> list[Path]:
    def unreadable(error: OSError) -> None:
        raise error

    found = []
    for directory, subfolders, names in os.walk(folder, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [
            Path(directory, name) for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    files = sorted(path for path in found if path.is_file())
    if not files:
        endings = " ".join(_PLAIN_ENDINGS)
        raise CorpusError(
            "corpus", f"no text in the folder {folder}: looked for files ending in {endings}, also with .gz or .zst"
        )
    return files

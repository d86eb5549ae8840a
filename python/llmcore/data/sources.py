"""Documents out of files: plain text, folders, globs, and JSONL with a `text` field."""

import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from llmcore.data.errors import CorpusError

# What a folder contributes. A file that is named directly, or matched by a glob, is read whatever its ending.
JSONL_ENDINGS = (".jsonl", ".jsonl.gz")
TEXT_ENDINGS = (".txt", ".md", ".rst", ".tex", ".py")


def read_documents(source: str | os.PathLike) -> list[bytes]:
    """The documents of one path or glob: a text file is one, a JSONL line is one. Blank ones are left out.

    Raises `CorpusError` naming what is missing, empty, unreadable or malformed.
    """
    files = find_files(source)
    documents = [document for path in files for document in _read_file(path) if document.strip()]
    if not documents:
        what = f"{source} is empty" if len(files) == 1 else f"{source}: all {len(files)} files are empty"
        raise CorpusError(f"[corpus] {what}: expected some text")
    return documents


def find_files(source: str | os.PathLike) -> list[Path]:
    """The files behind a path or glob, sorted. In folders, hidden entries and linked folders are skipped."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise TypeError(f"[corpus] expected a path as str or Path, got {type(source).__name__}")
    if not name or "\0" in name:
        raise CorpusError(f"[corpus] expected the path of a text, got {name!r}")
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            return _folder_files(path)
        if path.is_file():
            return [path]
        if path.exists():
            raise CorpusError(f"[corpus] {name} is not a regular file or a folder")
    except OSError as error:
        raise CorpusError(f"[corpus] cannot read {error.filename or name}: {error.strerror}") from None
    if not glob.has_magic(name):
        raise CorpusError(f"[corpus] {name} does not exist: expected a text file, folder, glob or .jsonl file")
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [match for match in matches if match.is_file()]
    if not files:
        raise CorpusError(f"[corpus] no file matches {name}")
    return files


def _folder_files(folder: Path) -> list[Path]:
    def unreadable(error: OSError) -> None:
        raise error

    found = []
    for directory, subfolders, names in os.walk(folder, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [
            Path(directory, name)
            for name in names
            if name.lower().endswith(TEXT_ENDINGS + JSONL_ENDINGS) and not name.startswith(".")
        ]
    files = sorted(path for path in found if path.is_file())
    if not files:
        endings = " ".join(TEXT_ENDINGS + JSONL_ENDINGS)
        raise CorpusError(f"[corpus] no text in the folder {folder}: looked for files ending in {endings}")
    return files


def _read_file(path: Path) -> Iterator[bytes]:
    try:
        if path.name.lower().endswith(JSONL_ENDINGS):
            yield from _read_jsonl(path)
        else:
            yield path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"[corpus] cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _read_jsonl(path: Path) -> Iterator[bytes]:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _parse_jsonl_line(line, f"{path}:{number}")


def _parse_jsonl_line(line: bytes, where: str) -> bytes:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"[corpus] {where}: not UTF-8 text at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        # A line nested thousands deep and an integer of thousands of digits are bad JSON too.
        reason = getattr(error, "msg", None) or str(error)
        raise CorpusError(f"[corpus] {where}: not valid JSON ({reason})") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise CorpusError(f'[corpus] {where}: expected a JSON object with a "text" field, got {kind}')
    if "text" not in record:
        fields = ", ".join(list(record)[:6]) or "none"
        raise CorpusError(f'[corpus] {where}: no "text" field; the fields are: {_shorten(fields)}')
    text = record["text"]
    if not isinstance(text, str):
        raise CorpusError(f'[corpus] {where}: "text" is {type(text).__name__}, expected a string')
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(f'[corpus] {where}: "text" has half a surrogate pair at {error.start}') from None


def _shorten(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= 80 else printable[:77] + "..."

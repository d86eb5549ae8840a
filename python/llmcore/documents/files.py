"""Files out of paths, folders and globs, and how each is read."""

import glob
import os
from pathlib import Path

from llmcore.errors import ArgumentTypeError, CorpusError

JSONL_ENDINGS = (".jsonl", ".ndjson")
PARQUET_ENDING = ".parquet"
COMPRESSED_ENDINGS = (".gz", ".zst")
# What a folder contributes. A file that is named directly, or matched by a glob, is read whatever its ending.
_PLAIN_ENDINGS = (".txt", ".md", ".rst", ".tex", ".py", *JSONL_ENDINGS, PARQUET_ENDING)
ENDINGS = (*_PLAIN_ENDINGS, *(plain + end for plain in _PLAIN_ENDINGS for end in COMPRESSED_ENDINGS))


def kind_of(path: Path) -> str:
    """Return the ending that says how a file is read: ".jsonl", ".parquet", or "" for text."""
    ending = Path(path.stem).suffix if path.suffix.lower() in COMPRESSED_ENDINGS else path.suffix
    return ".jsonl" if ending.lower() in JSONL_ENDINGS else PARQUET_ENDING if ending.lower() == PARQUET_ENDING else ""


def is_plain_text(path: Path) -> bool:
    """Say whether the file is one document as it is."""
    return kind_of(path) == "" and path.suffix.lower() not in COMPRESSED_ENDINGS


def find_files(source: str | os.PathLike) -> list[Path]:
    """Find the files that a path or glob names, sorted. In folders, hidden entries and linked folders are skipped."""
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

"""Files out of paths, folders and globs, and how each is read."""

import codecs
import glob
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llmcore.errors import ArgumentTypeError, CorpusError

JSONL_ENDINGS = (".jsonl", ".ndjson")
JSON_ENDING, CSV_ENDING, TSV_ENDING, PARQUET_ENDING, ARROW_ENDING = ".json", ".csv", ".tsv", ".parquet", ".arrow"
_KINDS = {
    **dict.fromkeys(JSONL_ENDINGS, ".jsonl"),
    **{e: e for e in (JSON_ENDING, CSV_ENDING, TSV_ENDING, PARQUET_ENDING, ARROW_ENDING)},
}
COMPRESSED_ENDINGS = (".gz", ".zst")
# What a folder contributes. A file that is named directly, or matched by a glob, is read whatever its ending.
_PLAIN_ENDINGS = (".txt", ".md", ".rst", ".tex", ".py", *JSONL_ENDINGS, PARQUET_ENDING)
# What a folder of rows contributes: its other files describe them.
_ROW_ENDINGS = tuple(_KINDS)
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_TRAINING = frozenset(("train", "training"))
_HELD_OUT = frozenset(("test", "testing", "validation", "valid", "val", "eval", "evaluation", "dev"))
_WORD = re.compile("[a-z]+")
_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def kind_of(path: Path) -> str:
    """Return the ending that says how a file is read: ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", or "" for text."""
    ending = Path(path.stem).suffix if path.suffix.lower() in COMPRESSED_ENDINGS else path.suffix
    return _KINDS.get(ending.lower(), "")


def is_plain_text(path: Path) -> bool:
    """Say whether the file is one document as it is."""
    if kind_of(path) or path.suffix.lower() in COMPRESSED_ENDINGS:
        return False
    with open(path, "rb") as file:
        return not file.read(4).startswith(_BYTE_ORDER_MARKS)


def find_files(
    source: str | os.PathLike, rows: bool = False, note: Callable[[str], object] = lambda text: None
) -> list[Path]:
    """Find the files that a path or glob names, sorted. In folders, hidden entries and linked folders are skipped. rows: a
    folder contributes its files of rows, not its texts, and of a data set with training files only these. note: called with
    what is said of files in folders that are not read."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise ArgumentTypeError("corpus", expected="a path as str or Path", got=type(source).__name__)
    if not name or "\0" in name:
        raise CorpusError("corpus", expected="the path of a text", got=repr(name))
    path = Path(os.path.expanduser(name))
    try:
        if path.is_dir():
            return _folder_files(path, rows, note)
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


def _folder_files(folder: Path, rows: bool, note: Callable[[str], object]) -> list[Path]:
    plain = _ROW_ENDINGS if rows else _PLAIN_ENDINGS
    wanted = (*plain, *(ending + end for ending in plain for end in COMPRESSED_ENDINGS))

    def unreadable(error: OSError) -> None:
        raise error

    found, others = [], Counter[str]()
    for directory, subfolders, names in os.walk(folder, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in (name for name in names if not name.startswith(".")):
            if name.lower().endswith(wanted) and not (rows and name in _NOT_ROWS):
                found.append(Path(directory, name))
            else:
                others[Path(name).suffix.lower() or name] += 1
    if others:
        kinds = ", ".join(
            f"{count:,} {kind}" for kind, count in sorted(others.items(), key=lambda e: (-e[1], e[0]))[:8]
        )
        note(f"{folder}: {others.total():,} files are not read: {kinds}{', ...' if len(others) > 8 else ''}")
    files = sorted(path for path in found if path.is_file())
    files = _training_files(folder, files, note) if rows else files
    if not files:
        what = "rows" if rows else "text"
        raise CorpusError(
            "corpus",
            f"no {what} in the folder {folder}: looked for files ending in {' '.join(plain)}, also with .gz or .zst",
        )
    return files


def _training_files(folder: Path, files: list[Path], note: Callable[[str], object]) -> list[Path]:
    """Return the files whose names say that they are for training, and those that say nothing; all if none says so."""
    words = {path: set(_WORD.findall(str(path.relative_to(folder)).lower())) for path in files}
    if not any(_TRAINING & each for each in words.values()):
        return files
    left = [path for path in files if _HELD_OUT & words[path] and not _TRAINING & words[path]]
    if left:
        names = ", ".join(str(path.relative_to(folder)) for path in left[:4]) + (", ..." if len(left) > 4 else "")
        note(f"{folder}: left out beside the training files: {names} (a file that is named itself is read)")
    return [path for path in files if path not in left]

"""Real text of three kinds, from what is installed here: nothing is downloaded, and one machine always gets the same."""

from __future__ import annotations

import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.harness.peers import installed

LARGEST = 300_000  # bytes of a file: larger ones are tables
DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)


def prose(wanted: int) -> str:
    """Documentation: text files of the packages and the system, and docstrings where those do not suffice."""
    roots = [*_packages(), Path("/usr/share/doc")]
    pages = [p for root in roots for pattern in ("*.md", "*.rst", "*.txt", "METADATA") for p in _files(root, pattern)]
    return _until_enough(wanted, (text for source in (_texts(pages), _docstrings()) for text in source))


def code(wanted: int) -> str:
    """Python sources of the standard library and the installed packages."""
    return _until_enough(wanted, _texts(_sources()))


def mixed(wanted: int) -> str | None:
    """Names of languages, places, units and days in some 700 languages and 30 scripts, a line for about twelve; first
    language by language, then drawn from all. None without Babel, which brings them (Unicode's CLDR)."""
    if installed("babel") is None:
        return None
    from babel import localedata

    chance = random.Random(0)
    names = sorted(localedata.locale_identifiers())
    chance.shuffle(names)
    languages = [list(_strings(localedata.load(name, merge_inherited=False))) for name in names]
    strings = [s for language in languages for s in language]
    drawn = (_lines(chance.choices(strings, k=1200)) for _ in iter(int, 1))
    return _until_enough(wanted, (text for source in (map(_lines, languages), drawn) for text in source))


def _packages() -> list[Path]:
    """Where packages lie; a folder that lies in another counts once."""
    roots = {Path(path).resolve() for path in (sysconfig.get_path("stdlib"), *sys.path) if Path(path).is_dir()}
    own = Path(__file__).resolve().parents[2]
    return sorted(r for r in roots if own not in (r, *r.parents) and not roots & set(r.parents))


def _files(root: Path, pattern: str) -> Iterator[Path]:
    yield from (p for p in sorted(root.rglob(pattern)) if p.is_file() and 0 < p.stat().st_size <= LARGEST)


def _sources() -> list[Path]:
    return [path for root in _packages() for path in _files(root, "*.py")]


def _texts(paths: list[Path]) -> Iterator[str]:
    """The files' contents in an order that mixes packages."""
    random.Random(0).shuffle(paths)
    for path in paths:
        yield path.read_text(encoding="utf-8", errors="replace")


def _docstrings() -> Iterator[str]:
    for source in _texts(_sources()):
        yield "\n\n".join(DOCSTRING.findall(source))


def _strings(data: object) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from _strings(value)


def _lines(words: list[str]) -> str:
    return "\n".join(" ".join(words[i : i + 12]) for i in range(0, len(words), 12)) + "\n"


def _until_enough(wanted: int, texts: Iterable[str]) -> str:
    """Join distinct texts, as they come, until they have `wanted` bytes."""
    parts: dict[str, None] = {}
    size = 0
    for text in texts:
        if text not in parts:
            parts[text] = None
            size += len(text.encode())
        if size >= wanted:
            break
    return "\n".join(parts)

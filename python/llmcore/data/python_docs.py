"""`python-docs`: over two megabytes of prose and API text from the interpreter that runs this, no download.

The language reference that `help()` shows (`pydoc_data.topics`) and the docstrings of the standard library: a
document a topic, a document a module. Kept in the user's cache folder between runs.
"""

import hashlib
import json
import sys
import sysconfig
from pathlib import Path

from llmcore._user_cache import cache_folder, write_cache
from llmcore.data.docstrings import library_modules, standard_library_docstrings
from llmcore.errors import CorpusError

# Raised whenever the documents come out differently, so that an older cache is not taken.
_FORMAT = 1
_LEAST_BYTES = 200_000


def python_docs(cache: bool = True) -> list[bytes]:
    """The documents, UTF-8, the same for one interpreter; `cache=False` neither reads nor writes the cache.

    Raises `CorpusError` if this interpreter came without its documentation.
    """
    path = _cache_path()
    documents = _read_cache(path) if cache else None
    if documents is None:
        documents = _build()
        if cache:
            _write_cache(path, documents)
    return documents


def _build() -> list[bytes]:
    topics = _topics()
    modules: dict[str, list[str]] = {}
    for entry in standard_library_docstrings():
        modules.setdefault(entry.module, []).append(entry.render())
    texts = [topics[name].strip() + "\n" for name in sorted(topics)]
    texts += ["\n\n".join(modules[name]) for name in sorted(modules)]
    documents = [text.encode("utf-8", "backslashreplace") for text in texts if text.strip()]
    size = sum(map(len, documents))
    if size < _LEAST_BYTES:
        missing = [] if topics else ["pydoc_data.topics"]
        if len(modules) < 100:
            missing.append(f"the sources of the standard library in {sysconfig.get_paths()['stdlib']}")
        raise CorpusError(
            "python-docs",
            f"this Python has {size} bytes of documentation, expected {_LEAST_BYTES} or more; missing: "
            f"{' and '.join(missing) or 'docstrings'}. Install all of Python, or give other text",
        )
    return documents


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # Debian's minimal interpreter
        return {}
    return {name: text for name, text in topics.items() if isinstance(text, str)}


def _cache_path() -> Path:
    """In the cache folder; a name for each interpreter."""
    library = Path(sysconfig.get_paths()["stdlib"])
    # Parts of Python that a distribution packages apart may come or go while its version stays.
    parts = sorted(module for module, _ in library_modules(library))
    parts.append(str((library / "pydoc_data" / "topics.py").exists()))
    identity = "\n".join([sys.version, str(library), str(_FORMAT), *parts])
    key = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
    version = ".".join(map(str, sys.version_info[:3]))
    return cache_folder() / f"python-docs-{version}-{key}.json"


def _read_cache(path: Path) -> list[bytes] | None:
    """The cached documents, or None if there are none or anything about the file is wrong."""
    try:
        digest, _, payload = path.read_bytes().partition(b"\n")
        if digest.decode("ascii") != hashlib.blake2b(payload, digest_size=32).hexdigest():
            return None
        return [text.encode("utf-8") for text in json.loads(payload)]
    except (OSError, ValueError):
        return None


def _write_cache(path: Path, documents: list[bytes]) -> None:
    payload = json.dumps([document.decode("utf-8") for document in documents]).encode()
    digest = hashlib.blake2b(payload, digest_size=32).hexdigest().encode()
    write_cache(path, digest + b"\n" + payload)

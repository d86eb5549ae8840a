"""Docstrings of the standard library, each with its name and signature, found without running any of it.

Python sources are parsed, never imported. Only a fixed list of C modules, which do nothing when imported, is
imported, because a C docstring lives nowhere else.
"""

import ast
import importlib
import inspect
import os
import sysconfig
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Tests, programs, third parties, and tables whose docstrings say the same over and over.
# fmt: off
SKIPPED_FOLDERS = frozenset((
    "__phello__", "__pycache__", "dist-packages", "encodings", "ensurepip", "idle_test", "idlelib",
    "lib-dynload", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "turtledemo",
))
# fmt: on
# Jokes, and the pure twin of decimal, whose text is decimal's.
SKIPPED_MODULES = frozenset({"antigravity", "this", "_pydecimal"})

# fmt: off
C_MODULES = (
    "_bisect", "_bz2", "_codecs", "_collections", "_contextvars", "_csv", "_datetime", "_decimal",
    "_functools", "_heapq", "_imp", "_io", "_json", "_lzma", "_operator", "_pickle", "_random",
    "_signal", "_sre", "_string", "_struct", "_thread", "_weakref", "array", "atexit", "binascii",
    "builtins", "cmath", "errno", "fcntl", "gc", "grp", "itertools", "marshal", "math", "mmap", "posix",
    "pwd", "resource", "select", "sys", "termios", "time", "unicodedata", "zlib",
)
# fmt: on
# Where users know the content of a C module from, if not from its name without the underscore.
_C_MODULE_NAMES = {"posix": "os", "_sre": "re"}


@dataclass(frozen=True)
class DocEntry:
    """One docstring, and the line that introduces it: `textwrap.dedent(text)` or `class json.JSONDecoder`."""

    module: str
    name: str
    kind: str  # module, class or function
    signature: str
    docstring: str

    def render(self) -> str:
        """The signature with the docstring indented below it; a module's docstring is not indented."""
        if self.kind == "module":
            return f"{self.signature}\n\n{self.docstring}\n"
        indented = "\n".join(f"    {line}" if line else "" for line in self.docstring.split("\n"))
        return f"{self.signature}\n\n{indented}\n"


def standard_library_docstrings() -> list[DocEntry]:
    """Every distinct docstring of the standard library: public modules first, then C ones, then private ones.

    The same interpreter always gives the same list. Takes one to two seconds.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    entries = []
    for entry in _all_entries(library):
        if entry.docstring not in seen:
            seen.add(entry.docstring)
            entries.append(entry)
    return entries


def _all_entries(library: Path) -> Iterator[DocEntry]:
    modules = sorted(library_modules(library))
    private = [item for item in modules if "._" in f".{item[0]}"]
    for module, path in sorted(set(modules) - set(private)):
        yield from source_entries(module, path)
    for name in C_MODULES:
        yield from _c_module_entries(name)
    for module, path in private:
        yield from source_entries(module, path)


def library_modules(library: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of every Python module below `library` that is not a test, joke or program."""
    for directory, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier()]
        package = Path(directory).relative_to(library).parts
        for file in files:
            stem, ending = os.path.splitext(file)
            if ending != ".py" or not stem.isidentifier() or stem.startswith("_sysconfigdata"):
                continue
            module = ".".join(package if stem == "__init__" else (*package, stem))
            if module and module not in SKIPPED_MODULES:
                yield module, Path(directory, file)


def source_entries(module: str, path: Path) -> Iterator[DocEntry]:
    """The entries of one Python source file, in its order. A file that cannot be read or parsed has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in somebody's source is not the user's business
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    docstring = ast.get_docstring(tree)
    if docstring:
        yield DocEntry(module, module, "module", module, _tidy(docstring))
    yield from _body_entries(module, module, tree.body, in_class=False)


def _body_entries(module: str, prefix: str, body: list[ast.stmt], in_class: bool) -> Iterator[DocEntry]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            name = f"{prefix}.{node.name}"
            docstring = ast.get_docstring(node)
            if docstring:
                bases = ", ".join(ast.unparse(base) for base in node.bases)
                signature = f"class {name}({bases})" if bases else f"class {name}"
                yield DocEntry(module, name, "class", signature, _tidy(docstring))
            yield from _body_entries(module, name, node.body, in_class=True)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                name = f"{prefix}.{node.name}"
                yield DocEntry(module, name, "function", _signature(name, node, in_class), _tidy(docstring))
        elif isinstance(node, (ast.If, ast.Try)):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            for block in (node.body, *handlers, node.orelse):
                yield from _body_entries(module, prefix, block, in_class)


def _signature(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, in_class: bool) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if "property" in decorators:
        return name
    arguments = node.args
    if in_class and "staticmethod" not in decorators:
        for positional in (arguments.posonlyargs, arguments.args):
            if positional:
                positional.pop(0)  # self or cls: callers do not write it
                break
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{prefix}{name}({ast.unparse(arguments)}){result}"


def _c_module_entries(name: str) -> Iterator[DocEntry]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = vars(importlib.import_module(name))
    except ImportError:  # built without it
        return
    module = _C_MODULE_NAMES.get(name, name.lstrip("_"))
    if isinstance(content.get("__doc__"), str):
        yield DocEntry(module, module, "module", module, _tidy(content["__doc__"]))
    homes = {name, module}
    for key in sorted(content):
        value = content[key]
        home = getattr(value, "__module__", None)
        # What another module put here (site adds to builtins, programs set hooks) is not this module's.
        if home not in homes or key.startswith("__") or (name == "sys" and key.endswith("hook")):
            continue
        if isinstance(value, types.BuiltinFunctionType):
            yield from _c_function_entry(module, f"{module}.{key}", value)
        elif isinstance(value, type):
            yield from _c_class_entries(module, f"{module}.{key}", value)


def _c_class_entries(module: str, name: str, cls: type) -> Iterator[DocEntry]:
    if isinstance(cls.__doc__, str):
        bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
        signature = f"class {name}({bases})" if bases else f"class {name}"
        yield DocEntry(module, name, "class", signature, _tidy(cls.__doc__))
    for key in sorted(vars(cls)):
        value = vars(cls)[key]
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if callable(value) and not isinstance(value, type):
            yield from _c_function_entry(module, f"{name}.{key}", value)


def _c_function_entry(module: str, name: str, function: object) -> Iterator[DocEntry]:
    docstring = getattr(function, "__doc__", None)
    if not isinstance(docstring, str) or not docstring.strip():
        return
    parameters = getattr(function, "__text_signature__", None) or "(...)"
    for implicit in ("$self", "$module", "$type", "self", "/"):
        for text in (f"({implicit}, ", f"({implicit}"):
            if parameters.startswith(text):
                parameters = "(" + parameters[len(text) :]
    yield DocEntry(module, name, "function", name + parameters, _tidy(docstring))


def _tidy(docstring: str) -> str:
    """Without common indentation and trailing spaces; half surrogate pairs, not UTF-8, spelled out."""
    lines = inspect.cleandoc(docstring).split("\n")
    text = "\n".join(line.rstrip() for line in lines).strip()
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

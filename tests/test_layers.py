"""The floors of the house: an import or an include goes down, never up, and never round in a circle.

Read from the source, so nothing has to be built: imports inside functions and for types only count like all others.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "llmcore"

# From the ground up. What stands in one row does not know each other.
PYTHON_FLOORS = (
    "_version errors _lazy _sequences",
    "_fields _files _names _processes _user_cache formats",
    "_core documents hub terminal",
    "_device",
    "autograd _arrays runtime",
    "_tensor tokenizer",
    "ops",
    "nn data",
    "optim losses models",
    "bench generate",
    "evaluate",
    "train",
    "plot",
    "demo",
    "cli",
    "__init__ __main__",
)
CPP_FLOORS = ("core", "cpu cuda tokenizer", "ops", "bindings")

MOST_FILES, MOST_LINES = 30, 500
FOLDERS = ("python", "csrc", "tests", "benchmarks", "docs", "tools", "cmake", ".ci")
HAND_WRITTEN = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".sh", ".cmake", ".md", ""}
GENERATED = {
    "csrc/tokenizer/unicode/generated/sets.cpp",
    "csrc/tokenizer/unicode/generated/tables.cpp",
    "python/llmcore/_core.pyi",
    "python/llmcore/tokenizer/pipeline/unicode_tables.py",
}
NOT_OURS = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}

Graph = Mapping[str, Iterable[str]]


# ---- reading -------------------------------------------------------------------------------------------


def python_modules(root: Path) -> dict[str, Path]:
    """The modules of the package under `root` by dotted name, the package itself left out of it: "", "ops.norm"."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py*")):
        if path.suffix not in (".py", ".pyi", ".pyc") or path.suffix == ".pyc":
            continue
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def python_imports(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """(module, name taken from it or "") of every import of the package's own modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name.partition(".")[2], ""
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # relative: from the folder that the module lies in
                parts = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
                parts = parts[: len(parts) - node.level + 1] + (node.module.split(".") if node.module else [])
                base = ".".join(part for part in parts if part)
            elif (node.module or "").split(".")[0] == PACKAGE:
                base = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}" if base else alias.name
                yield (inner, "") if inner in modules else (base, alias.name)


def python_graph(root: Path) -> dict[str, set[str]]:
    modules = python_modules(root)
    return {name: {to for to, _ in python_imports(name, path, modules)} - {name} for name, path in modules.items()}


def cpp_graph(root: Path) -> dict[str, set[str]]:
    """The files under `root` and the files of the same tree that each includes."""
    graph = {}
    for path in sorted(root.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        found = set()
        for include in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            places = [p for p in (root / include, path.parent / include) if p.is_file()]
            if places:
                found.add(places[0].resolve().relative_to(root.resolve()).as_posix())
        graph[path.relative_to(root).as_posix()] = found
    return graph


# ---- judging -------------------------------------------------------------------------------------------


def arrows_up(graph: Graph, floors: Sequence[str], part: str) -> list[str]:
    """Imports that do not go down, and modules that no floor names. The first part of a name, up to `part`, is on a floor."""
    level = {name: number for number, row in enumerate(floors) for name in row.split()}
    wrong = []
    for name, targets in graph.items():
        home = name.split(part)[0] or "__init__"
        if home not in level:
            wrong.append(f"{name} is on no floor")
            continue
        for target in targets:
            to = target.split(part)[0] or "__init__"
            if to != home and level.get(to, -1) >= level[home]:
                wrong.append(f"{name or '__init__'} -> {target or '__init__'}")
    return sorted(wrong)


def circles(graph: Graph) -> list[str]:
    """Each set of modules that reach each other (Tarjan 1972), as one line."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[str] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in graph.get(name, ()):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            members = [stack.pop()]
            while members[-1] != name:
                members.append(stack.pop())
            if len(members) > 1:
                found.append(" <-> ".join(sorted(m or "__init__" for m in members)))

    for name in graph:
        if name not in order:
            visit(name)
    return sorted(found)


def private_names(root: Path) -> list[str]:
    """Names with an underscore that a module takes from another package."""
    modules = python_modules(root)
    return sorted(
        f"{name} takes {what} of {target}"
        for name, path in modules.items()
        for target, what in python_imports(name, path, modules)
        if what.startswith("_") and not what.startswith("__") and target and target.split(".")[0] != name.split(".")[0]
    )


def source_files(root: Path, folders: Iterable[str]) -> Iterator[Path]:
    """The files of these folders, and of the root itself, that are not made by running something."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and not NOT_OURS & set(path.parts) and path.suffix not in (".so", ".pyc"):
                yield path
    yield from (path for path in sorted(root.iterdir()) if path.is_file())


def too_large(root: Path, folders: Iterable[str], generated: Iterable[str] = ()) -> list[str]:
    """Folders of too many files and hand-written files of too many lines; names of generated files that are not there."""
    files = {path.relative_to(root).as_posix(): path for path in source_files(root, folders)}
    counts = Counter(path.parent.relative_to(root).as_posix() for path in files.values())
    wrong = [f"{folder}: {n} files" for folder, n in counts.items() if n > MOST_FILES]
    wrong += [f"{name} is not there" for name in generated if name not in files]
    for name, path in files.items():
        if path.suffix in HAND_WRITTEN and name not in generated and path.parent != root:
            lines = path.read_bytes().count(b"\n")
            wrong += [f"{name}: {lines} lines"] if lines > MOST_LINES else []
    return sorted(wrong)


# ---- the house -----------------------------------------------------------------------------------------


def everything_wrong() -> list[str]:
    python, cpp = python_graph(ROOT / "python"), cpp_graph(ROOT / "csrc")
    headers = {name: [t for t in targets if not t.endswith((".cpp", ".cu"))] for name, targets in cpp.items()}
    return [
        *arrows_up(python, PYTHON_FLOORS, "."),
        *circles(python),
        *private_names(ROOT / "python"),
        *arrows_up(cpp, CPP_FLOORS, "/"),
        *circles(headers),
        *too_large(ROOT, FOLDERS, GENERATED),
    ]


def test_imports_go_down_and_files_are_small():
    assert not everything_wrong()


# ---- the judge -----------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path):
    """A sound package of three floors."""
    files = {
        "__init__.py": "",
        "ground.py": "",
        "middle/__init__.py": "from llmcore.middle.b import b\n",
        "middle/a.py": "from llmcore import ground\n",
        "middle/b.py": "from llmcore.middle.a import x\nfrom . import a\nimport os\n",
        "top.py": "import llmcore.middle.b\n",
    }
    for name, text in files.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


HOUSE_FLOORS = ("ground", "middle", "top", "__init__")


def test_a_sound_house_passes(house):
    graph = python_graph(house)
    assert graph["middle.b"] == {"middle.a"}
    assert arrows_up(graph, HOUSE_FLOORS, ".") == circles(graph) == private_names(house) == []


@pytest.mark.parametrize(
    "line",
    [
        "from llmcore.top import x",
        "import llmcore.top",
        "def f():\n    from llmcore import top",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llmcore.top import X",
        "from .. import top",
        "from ..top import X",
    ],
)
def test_an_arrow_up_is_found_however_it_is_written(house, line):
    (house / PACKAGE / "middle/a.py").write_text(line + "\n")
    assert arrows_up(python_graph(house), HOUSE_FLOORS, ".") == ["middle.a -> top"]


def test_neighbours_on_one_floor_do_not_know_each_other(house):
    assert arrows_up(python_graph(house), ("ground", "middle top", "__init__"), ".") == ["top -> middle.b"]


def test_a_module_without_a_floor_is_found(house):
    assert "ground is on no floor" in arrows_up(python_graph(house), ("middle", "top", "__init__"), ".")


def test_a_circle_is_found(house):
    (house / PACKAGE / "middle/a.py").write_text("def f():\n    from llmcore.middle.b import b\n")
    assert circles(python_graph(house)) == ["middle.a <-> middle.b"]


def test_a_private_name_of_another_package_is_found(house):
    (house / PACKAGE / "top.py").write_text("from llmcore.middle.a import _x\nfrom llmcore.middle import a\n")
    assert private_names(house) == ["top takes _x of middle.a"]


def test_includes_are_read(tmp_path):
    for name, text in {
        "core/a.h": '#include "core/b.h"',
        "core/b.h": "",
        "ops/c.cpp": '# include "c.h"',
        "ops/c.h": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n#include <vector>\n")
    graph = cpp_graph(tmp_path)
    assert graph == {"core/a.h": {"core/b.h"}, "core/b.h": set(), "ops/c.cpp": {"ops/c.h"}, "ops/c.h": set()}
    (tmp_path / "core/b.h").write_text('#include "core/a.h"\n#include "ops/c.h"\n')
    graph = cpp_graph(tmp_path)
    assert arrows_up(graph, ("core", "ops"), "/") == ["core/b.h -> ops/c.h"]
    assert circles(graph) == ["core/a.h <-> core/b.h"]


def test_size_is_measured(tmp_path):
    folder = tmp_path / "tests"
    folder.mkdir()
    for number in range(MOST_FILES):
        (folder / f"{number}.py").write_text("x\n" * MOST_LINES)
    assert too_large(tmp_path, ["tests"]) == []
    (folder / "more.py").write_text("x\n" * (MOST_LINES + 1))
    assert too_large(tmp_path, ["tests"]) == ["tests/more.py: 501 lines", "tests: 31 files"]
    assert too_large(tmp_path, ["tests"], ["tests/more.py", "tests/gone.py"]) == [
        "tests/gone.py is not there",
        "tests: 31 files",
    ]

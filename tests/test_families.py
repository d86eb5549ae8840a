"""A family of ops has one name on every floor: who knows where `rope` lies on one knows it on all.

On each floor a family is a file, or a folder where it takes several. Read from the source, so nothing has to be built.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

NAMES = "attention cache elementwise embedding gather gemm loss norm optim quantized rope sample softmax"
FAMILIES = set(NAMES.split())


class Floor(NamedTuple):
    """The names on one floor: what must not count as a family there, and which families it lacks, each with its reason."""

    files: str  # pattern with one group, the name; matched with the paths below `folder`
    others: str = ""
    without: str = ""


FLOORS = {
    "csrc/core/kernels": Floor(r"(\w+)\.h"),
    # isas picks the instruction set, families fills the table; machine measures the floors of speed, and is no op.
    "csrc/cpu": Floor(r"(?:\w+/)?(\w+)\.cpp", others="isas families machine"),
    # runtime, copy and blas serve all families; muon is a part of optim, and a mode of attention has a file.
    "csrc/cuda": Floor(
        r"(?:\w+/)?(\w+)\.cu", others="runtime copy gemm/blas optim/muon attention/{backward,decode,forward,plain}"
    ),
    # base is what all share: checks, and which device's kernels are called.
    "csrc/ops": Floor(r"(?:\w+/)?(\w+)\.cpp", others="base/{common,dispatch} machine"),
    # views take no kernel; deferred and low_rank are made of other ops. optim is llmcore.optim, and a quantized weight
    # goes through the functions of gemm and embedding.
    "python/llmcore/ops": Floor(r"(\w+)\.py", others="__init__ views deferred low_rank", without="optim quantized"),
    # philox is the twin of core/philox.h. Numpy's own indexing is the twin of the families without a file.
    "tests/reference": Floor(r"(\w+)\.py", others="philox", without="cache embedding gather"),
    # What is asked of all ops, and views.
    "tests/ops": Floor(r"test_([a-z]+)\w*\.py", others="bad unusual views"),
    # overhead is what a call costs, whatever the op.
    "benchmarks/ops": Floor(r"bench_(\w+)\.py", others="overhead"),
}
# Where a function for each family is declared or defined, and which it has besides.
REGISTERED = {
    "csrc/cpu/families.h": "machine",
    "csrc/cuda/common.cuh": "muon",
    "csrc/bindings/ops.cpp": "ops",
}


def expanded(names: str) -> set[str]:
    """ "a b/{c,d}" as {"a", "b/c", "b/d"}."""
    found = set()
    for name in names.split():
        head, _, tail = name.partition("{")
        found |= {head + end for end in tail.rstrip("}").split(",")}
    return found


def names_on(folder: Path, floor: Floor) -> set[str]:
    """The names that `floor` has, each as its file is called; a file of another name in a folder as folder/name."""
    found = set()
    for path in folder.rglob("*"):
        relative = path.relative_to(folder).as_posix()
        match = re.fullmatch(floor.files, relative)
        if match:
            within = Path(relative).parent.name
            found.add(match[1] if within in ("", match[1]) else f"{within}/{match[1]}")
    return found


def wrong(names: set[str], others: str = "", without: str = "") -> list[str]:
    """What a floor lacks of the families, and what it has besides; and exceptions that are none any more."""
    expected = FAMILIES - set(without.split()) | expanded(others)
    return sorted([f"-{name}" for name in expected - names] + [f"+{name}" for name in names - expected])


@pytest.mark.parametrize("folder", FLOORS)
def test_a_floor_has_the_families(folder):
    if not (ROOT / folder).is_dir():
        pytest.skip("no sources")
    floor = FLOORS[folder]
    assert wrong(names_on(ROOT / folder, floor), floor.others, floor.without) == []


@pytest.mark.parametrize("path", REGISTERED)
def test_every_family_is_registered(path):
    if not (ROOT / path).is_file():
        pytest.skip("no sources")
    names = set(re.findall(r"^void register_(\w+)\(", (ROOT / path).read_text(), re.MULTILINE))
    assert wrong(names, REGISTERED[path]) == []


def test_another_name_is_found(tmp_path):
    """A file, and one in a folder, that is called otherwise than its family."""
    for name in (*FAMILIES - {"rope", "gemm"}, "rotary", "gemm/linear"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.cpp").touch()
    names = names_on(tmp_path, Floor(r"(?:\w+/)?(\w+)\.cpp"))
    assert wrong(names) == ["+gemm/linear", "+rotary", "-gemm", "-rope"]
    assert wrong(names, "rotary gemm/{linear}", "rope gemm") == []
    assert wrong(names, "rotary gemm/linear seen", "rope gemm") == ["-seen"]

"""Kernels are compiled once for every instruction set. Where two objects hold a weak symbol of one name the linker keeps
either, maybe the one that an older processor cannot run: so no ISA object may hold any, nor export anything outside its
own namespace. Reads the objects of a build: LLMCORE_BUILD_DIR, or build/ as `pip install .` leaves it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def isa_objects() -> list[Path]:
    named = os.environ.get("LLMCORE_BUILD_DIR")
    return sorted(Path(named or ROOT / "build").glob("**/kernels_*.dir/**/*.o"))


def exported(symbols: str, isa: str) -> list[str]:
    """Lines of `nm -C --defined-only` that name more than the table's filler of this ISA."""
    own = re.compile(rf"^[0-9a-f]+ T llmcore::{isa}::fill_table\(llmcore::KernelTable&\)$")
    local = re.compile(r"^[0-9a-f]+ [a-z] ")  # lower case is local, but for the weak and the unique kinds
    return [s for s in symbols.splitlines() if not own.match(s) and (not local.match(s) or s.split()[1] in "uvw")]


def test_isa_objects_export_only_their_table():
    objects = isa_objects()
    if not objects and "LLMCORE_BUILD_DIR" not in os.environ:
        pytest.skip("no build tree: set LLMCORE_BUILD_DIR")
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    assert objects, "LLMCORE_BUILD_DIR has no kernels_<isa>.dir/*.o"
    for path in objects:
        isa = re.search(r"kernels_(\w+)\.dir", str(path))[1]
        symbols = subprocess.run(
            ["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout
        assert f"llmcore::{isa}::fill_table" in symbols
        assert exported(symbols, isa) == [], f"{path.name} of {isa}"


def test_a_weak_symbol_is_found():
    symbols = """\
0000000000000000 T llmcore::avx2::fill_table(llmcore::KernelTable&)
0000000000000000 t llmcore::avx2::gelu(llmcore::UnaryArgs const&)
0000000000000000 W std::vector<int>::push_back(int&&)
0000000000000000 u llmcore::avx2::table
0000000000000000 T llmcore::helper()
"""
    assert [line.split()[1] for line in exported(symbols, "avx2")] == ["W", "u", "T"]


def test_no_constant_of_a_kernel_hides_one_of_the_headers():
    """Kernels live in a namespace of their instruction set: a second constant of one name would be another there than for
    those who prepare their data, and only for that instruction set."""
    constant = re.compile(r"^(?:static |inline )*constexpr \w+ (k\w+)[^;\n]*", re.MULTILINE)
    folder = ROOT / "csrc"
    if not folder.is_dir():
        pytest.skip("no sources")
    shared = {n: h for h in folder.rglob("*.h") for n in constant.findall(h.read_text())}
    assert "kStripRows" in shared
    for source in (folder / "cpu").glob("*.inl"):
        for line in constant.finditer(source.read_text()):
            for name in re.findall(r"\b(k[A-Z]\w*) =", line[0]):
                assert name not in shared, f"{source.name}: {name} is also in {shared[name].name}"

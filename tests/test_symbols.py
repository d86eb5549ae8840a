"""Kernels are compiled once for every instruction set, each family of them into an object of its own. Where two objects
hold a weak symbol of one name the linker keeps either, maybe the one that an older processor cannot run: so none of them
may hold any, nor export anything but the function that fills its part of the table. Reads the objects of a build:
LLMCORE_BUILD_DIR, or build/ as `pip install .` leaves it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def isa_objects() -> list[Path]:
    """The objects of kernels in the build tree, but for those of sources that have gone since it was made."""
    found = Path(os.environ.get("LLMCORE_BUILD_DIR") or ROOT / "build").glob("**/kernels_*.dir/**/*.o")
    return sorted(
        p for p in found if (ROOT / "csrc" / re.split(r"kernels_\w+\.dir/", str(p))[1]).with_suffix("").is_file()
    )


def filler(family: str, isa: str) -> str:
    """The one function that the object of this family may export."""
    name = "fill_table" if family == "families" else f"register_{family}"
    return f"llmcore::{isa}::{name}(llmcore::KernelTable&)"


def exported(symbols: str, own: str) -> list[str]:
    """Lines of `nm -C --defined-only` that name more than `own`."""
    local = re.compile(r"^[0-9a-f]+ [a-z] ")  # lower case is local, but for the weak and the unique kinds
    return [
        s
        for s in symbols.splitlines()
        if s.split(" ", 1)[1] != f"T {own}" and (not local.match(s) or s.split()[1] in "uvw")
    ]


def test_isa_objects_export_only_their_part_of_the_table():
    objects = isa_objects()
    if not objects and "LLMCORE_BUILD_DIR" not in os.environ:
        pytest.skip("no build tree: set LLMCORE_BUILD_DIR")
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    assert objects, "LLMCORE_BUILD_DIR has no kernels_<isa>.dir/*.o"
    families: dict[str, set[str]] = {}
    for path in objects:
        isa, family = re.search(r"kernels_(\w+)\.dir", str(path))[1], path.name.split(".")[0]
        families.setdefault(isa, set()).add(family)
        symbols = subprocess.run(
            ["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout
        assert f" T {filler(family, isa)}\n" in symbols
        assert exported(symbols, filler(family, isa)) == [], f"{path.name} of {isa}"
    if "avxvnni" in families:
        assert families.pop("avxvnni") == {"families", "machine", "quantized"}, "it has the other families of avx2"
    assert len({frozenset(names) for names in families.values()}) == 1, "not every instruction set has all families"
    assert {"families", "gemm"} < families["baseline"]


def test_a_weak_symbol_is_found():
    symbols = """\
0000000000000000 T llmcore::avx2::register_gemm(llmcore::KernelTable&)
0000000000000000 T llmcore::avx2::register_norm(llmcore::KernelTable&)
0000000000000000 t llmcore::avx2::gelu(llmcore::UnaryArgs const&)
0000000000000000 W std::vector<int>::push_back(int&&)
0000000000000000 u llmcore::avx2::table
0000000000000000 T llmcore::helper()
"""
    assert [line.split()[1] for line in exported(symbols, filler("gemm", "avx2"))] == ["T", "W", "u", "T"]


def test_no_constant_of_a_kernel_hides_one_of_the_headers():
    """Kernels live in a namespace of their instruction set: a second constant of one name would be another there than for
    those who prepare their data, and only for that instruction set."""
    constant = re.compile(r"^(?:static |inline )*constexpr \w+ (k\w+)[^;\n]*", re.MULTILINE)
    folder = ROOT / "csrc"
    if not folder.is_dir():
        pytest.skip("no sources")
    kernels = {p for p in (folder / "cpu").rglob("*") if p.suffix in (".h", ".cpp")}
    shared = {n: h for h in set(folder.rglob("*.h")) - kernels for n in constant.findall(h.read_text())}
    assert "kStripRows" in shared
    for source in kernels:
        for line in constant.finditer(source.read_text()):
            for name in re.findall(r"\b(k[A-Z]\w*) =", line[0]):
                assert name not in shared, f"{source.name}: {name} is also in {shared[name].name}"

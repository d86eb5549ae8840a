"""Report registers and spills of every CUDA kernel from the output of a build: `ninja -v | ... ptxas_report.py LOG`.

Exit status 1 if a kernel spills registers to memory: it would wait for memory at every access. The figures are those of
`nvcc -Xptxas -v`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def kernels(text: str) -> dict[tuple[str, str], dict[str, int]]:
    """Return (mangled name, architecture) -> registers, stack and spill in bytes."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    entry = None
    for line in text.splitlines():
        if m := ENTRY.search(line):
            entry = found.setdefault((m[1], m[2]), {"registers": 0, "stack": 0, "spill": 0})
        elif entry is not None and (m := SPILL.search(line)):
            entry["stack"], entry["spill"] = int(m[1]), int(m[2]) + int(m[3])
        elif entry is not None and (m := USED.search(line)):
            entry["registers"] = int(m[1])
    return found


def readable(names: list[str]) -> dict[str, str]:
    if not shutil.which("c++filt"):
        return {n: n for n in names}
    out = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, out.splitlines(), strict=True))


def main() -> int:
    found = kernels(Path(sys.argv[1]).read_text(errors="replace"))
    if not found:
        print(f"{sys.argv[1]}: expected the output of nvcc -Xptxas -v, got no kernel")
        return 1
    names = readable(sorted({name for name, _ in found}))
    spilled = {key: k for key, k in found.items() if k["spill"]}
    most = sorted(found.items(), key=lambda item: -item[1]["registers"])[:8]
    print(f"{len(found)} kernels for {', '.join(sorted({arch for _, arch in found}))}; the largest:")
    for (name, arch), k in [*most, *spilled.items()]:
        note = f", SPILLS {k['spill']} bytes" if k["spill"] else ""
        print(f"  {arch:8} {k['registers']:3} registers, {k['stack']} bytes of stack{note}  {names[name][:110]}")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes one gpu.json and one gpu.md of what gpu.sh left in a folder. Standard library only.

    python benchmarks/gpu_report.py needs          # one line for everything that is missing
    python benchmarks/gpu_report.py OUT_DIR

What did not run, or did not finish, is never counted as passed: every verdict is made of what the log shows.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

# Module -> who needs it.
NEEDS = {
    "the build": ("pybind11", "scikit_build_core", "pip"),
    "llmcore": ("numpy", "ml_dtypes", "yaml", "jinja2"),
    "tests of the command line": ("rich", "typer"),
    "the tests": ("pytest",),
    "the limit of a test's time": ("pytest_timeout",),
    "tests/ops/test_gemm.py": ("hypothesis",),
    "running tests side by side": ("xdist",),
    "the benchmarks": ("torch",),
    "torch.compile": ("triton",),
    "the peer in decoding": ("transformers",),
}
PROGRAMS = ("nvidia-smi", "nvcc", "cmake", "ninja", "compute-sanitizer")
VERSIONED = ("numpy", "torch", "triton", "transformers", "pytest", "pybind11", "scikit-build-core")


def main() -> None:
    if sys.argv[1:] == ["needs"]:
        print("\n".join(missing()) or "nothing is missing")
        return
    out = Path(sys.argv[1])
    report = collected(out)
    (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "gpu.md").write_text(rendered(report) + "\n")
    print(rendered(report))


def missing() -> list[str]:
    found = [f"missing: {name}" for name in PROGRAMS if shutil.which(name) is None]
    for who, modules in NEEDS.items():
        found += [f"missing: {m}, which {who} needs" for m in modules if importlib.util.find_spec(m) is None]
    return found


def collected(out: Path) -> dict:
    parts = read_parts(out / "parts.tsv")
    bench = read_json(out / "rows.json")
    return {
        "device": device(),
        "versions": versions() | bench.get("environment", {}).get("versions", {}),
        "environment": bench.get("environment", {}),
        "missing": missing(),
        "parts": parts,
        "tests": {name: tests(out, name, parts) for name in ("tests", "tests-slow")},
        "sanitizers": {tool: sanitizer(out, tool, parts) for tool in ("memcheck", "racecheck")},
        "peaks": bench.get("peaks", {}),
        "tiny": bench.get("tiny", False),
        "rows": bench.get("rows", []),
    }


def read_parts(path: Path) -> list[dict]:
    """What gpu.sh writes: name, status, seconds, note; one a line."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [dict(zip(("name", "status", "seconds", "note"), line.split("\t"), strict=True)) for line in lines]


def read_json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


def device() -> dict:
    """As nvidia-smi has it; empty where there is none."""
    fields = (
        "name",
        "compute_cap",
        "memory.total",
        "driver_version",
        "clocks.max.sm",
        "clocks.max.memory",
        "power.limit",
    )
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, (v.strip() for v in said.splitlines()[0].split(",")), strict=False)) if said.strip() else {}


def versions() -> dict:
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if shutil.which("nvcc"):
        said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
        if m := re.search(r"release [\d.]+, V([\d.]+)", said):
            found["nvcc"] = m[1]
    return found


# ---- tests ----


def status_of(name: str, parts: list[dict]) -> tuple[str, str]:
    return next(((p["status"], p["note"]) for p in parts if p["name"] == name), ("not run", ""))


def tests(out: Path, name: str, parts: list[dict]) -> dict:
    """Counts by outcome: of pytest's own report where it came to write one, else of the lines in the log."""
    status, note = status_of(name, parts)
    found = {"status": status, "note": note}
    if status == "not run":
        return found
    counts = counts_of(out / f"{name}.xml")
    if counts is None:
        found["status"] = "did not finish"
        counts = counts_in_log(read_text(out / f"{name}.log"))
    found |= counts | {"of": selected(read_text(out / f"{name}.log"))}
    ran = counts["passed"] + counts["failed"] + counts["errors"]
    found["verdict"] = "nothing ran" if not ran else "passed" if verdict(found) else "failed"
    if found["status"] == "did not finish" and found["verdict"] != "failed":
        found["verdict"] = "did not finish"
    return found


def verdict(counts: dict) -> bool:
    return counts["passed"] > 0 and not counts["failed"] and not counts["errors"]


def counts_of(path: Path) -> dict | None:
    try:
        suites = xml.etree.ElementTree.parse(path).getroot().iter("testsuite")
        total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        names = []
        for suite in suites:
            for key in total:
                total[key] += int(suite.get(key, 0))
            names += [f"{case.get('classname')}::{case.get('name')}" for case in suite.iter("testcase")
                      if case.find("failure") is not None or case.find("error") is not None]  # fmt: skip
    except (OSError, xml.etree.ElementTree.ParseError):
        return None
    bad = total["failures"] + total["errors"]
    return {"passed": total["tests"] - bad - total["skipped"], "failed": total["failures"], "errors": total["errors"],
            "skipped": total["skipped"], "names_failed": names[:200]}  # fmt: skip


def counts_in_log(text: str) -> dict:
    """Of the lines that -v writes, also with pytest-xdist; the summary at the end has none of their form."""
    said = re.findall(r"^(?:\[gw\d+\] \[ *\d+%\] (\w+) \S+::.*|\S+::.* (\w+) +\[ *\d+%\])$", text, re.MULTILINE)
    words = [a or b for a, b in said]
    return {"passed": words.count("PASSED"), "failed": words.count("FAILED"), "errors": words.count("ERROR"),
            "skipped": words.count("SKIPPED") + words.count("XFAIL"), "names_failed": []}  # fmt: skip


def selected(text: str) -> int | None:
    """How many tests pytest would run."""
    said = re.search(
        r"(?:^|\D)(\d+) selected|^collected (\d+) items?$|^\d+ workers \[(\d+) items?\]", text, re.MULTILINE
    )
    return int(said[1] or said[2] or said[3]) if said else None


def read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


# ---- sanitizers ----


def sanitizer(out: Path, tool: str, parts: list[dict]) -> dict:
    """passed: the tool summed up without an error, and tests passed under it."""
    status, note = status_of(tool, parts)
    found = {"status": status, "note": note}
    if status == "not run":
        return found
    log = read_text(out / f"{tool}.log")
    found |= counts_in_log(log) | {"of": selected(log)}
    summary = re.search(r"=+ (?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", log)
    if summary is None:
        said = next((s for s in log.splitlines() if "Error:" in s or "not supported" in s), "no summary")
        found["status"] = "did not finish"
        found["verdict"] = f"did not finish: {said.lstrip('= ').strip():.200}"
        return found
    found["reported"] = int(summary[1] or summary[2])
    found["first"] = [
        s.lstrip("= ") for s in log.splitlines() if re.match(r"=+ (Invalid|Error|Warning|Program hit)", s)
    ][:5]
    ran = found["passed"] + found["failed"] + found["errors"]
    clean = not found["reported"] and verdict(found)
    found["verdict"] = "nothing ran" if not ran else "passed" if clean else "failed"
    return found


# ---- the table ----


def rendered(report: dict) -> str:
    d = report["device"]
    lines = ["# llmcore on the GPU", ""]
    if report["tiny"]:
        lines += ["Small shapes, compared and not timed: these are no measurements.", ""]
    where = (
        f"{d['name']}, compute capability {d['compute_cap']}, {d['memory.total']}, driver {d['driver_version']}"
        if d
        else "no GPU"
    )
    lines += [f"{where}; {', '.join(f'{k} {v}' for k, v in report['versions'].items())}.", ""]
    if report["peaks"]:
        copy, product = (
            {k: f"{v:,.0f}" for k, v in report["peaks"].get(n, {}).items()} for n in ("copy_gb_s", "bf16_tflop_s")
        )
        lines += [f"Measured peaks: copying (bytes read and written) {spoken(copy, 'GB/s')}; products in bfloat16 "
                  f"{spoken(product, 'TFLOP/s')}. Floors are of the better one.", ""]  # fmt: skip
    lines += [
        table(
            ("part", "status", "seconds", ""),
            [[p["name"], p["status"], p["seconds"], p["note"]] for p in report["parts"]],
        )
    ]
    lines += [
        "",
        table(("check", "verdict", "of", "passed", "failed", "errors", "skipped", "reported"), checks(report)),
        "",
    ]
    lines += [
        table(
            ("work", "llmcore", "peer", "its time", "speed", "asked", "of the floor", "asked", "apart", "others"),
            work(report),
        )
    ]
    failed = [n for t in report["tests"].values() for n in t.get("names_failed", [])]
    lines += ["", *(f"- failed: {name}" for name in failed[:40]), *(f"- {line}" for line in report["missing"])]
    return "\n".join(lines).rstrip()


def spoken(rates: dict, unit: str) -> str:
    return ", ".join(f"{side} {rate} {unit}" for side, rate in rates.items()) or "not measured"


def checks(report: dict) -> list[list[str]]:
    found = []
    for name, check in {**report["tests"], **report["sanitizers"]}.items():
        counts = [str(check.get(k, "")) for k in ("of", "passed", "failed", "errors", "skipped", "reported")]
        said = check.get("verdict", f"{check['status']}{': ' * bool(check['note'])}{check['note']}")
        found.append([name, said, *counts])
    return found


def work(report: dict) -> list[list[str]]:
    found = []
    for row in report["rows"]:
        if row["status"] != "done":
            found.append([row["name"], f"**{row['status']}** {row.get('note', '')}", *[""] * 8])
            continue
        apart = f"{row['difference']:.1e}"
        if "seconds" not in row:
            found.append([row["name"], "not timed", *[""] * 6, apart, ""])
            continue
        seconds, peer, ratio, asked = row["seconds"], row["peer"], row["ratio"], row["asked"]
        share, asked_share = row.get("share"), row["asked_share"]
        others = [f"{n} {duration(s)}" for n, s in seconds.items() if n not in ("llmcore", peer)]
        others += [row[key] for key in ("without",) if key in row] + ([] if peer else [row.get("peer_is", "no peer")])
        found.append([
            row["name"], duration(seconds["llmcore"]), peer or "", duration(seconds[peer]) if peer else "",
            f"{ratio:.2f}x" if ratio else "", met(ratio, asked, f"{asked or 0:g}x"),
            f"{share:.0%} ({row['bound']})" if share else "", met(share, asked_share, f"{asked_share or 0:.0%}"), apart,
            "; ".join(others),
        ])  # fmt: skip
    return found


def met(value: float | None, asked: float | None, said: str) -> str:
    if asked is None:
        return ""
    return f"{said}: {'unknown' if value is None else 'met' if value >= asked else '**missed**'}"


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.2f} ms"


def table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    cells = [[str(c).replace("|", "\\|") for c in row] for row in (header, *rows)]
    return "\n".join(["| " + " | ".join(row) + " |" for row in [cells[0], ["---"] * len(header), *cells[1:]]])


if __name__ == "__main__":
    main()

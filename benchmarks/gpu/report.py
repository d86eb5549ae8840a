"""Makes one gpu.json and one gpu.md of what gpu.sh left in a folder. Standard library only.

    python -m benchmarks.gpu.report needs          # one line for everything that is missing
    python -m benchmarks.gpu.report OUT_DIR

What did not run, was skipped or did not finish is never counted as passed: every verdict is made of what the logs show.
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
from collections import Counter
from pathlib import Path

# Module -> who needs it.
NEEDS = {
    "the build": ("pybind11", "scikit_build_core", "pip"),
    "llmcore": ("numpy", "ml_dtypes", "yaml", "jinja2"),
    "tests of the command line": ("rich", "typer"),
    "the tests": ("pytest",),
    "the limit of a test's time": ("pytest_timeout",),
    "a test of products": ("hypothesis",),
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
    (out / "gpu.md").write_text(rendered(report) + "\n", encoding="utf-8", errors="replace")
    checked = {**report["tests"], **report["sanitizers"]}
    sys.exit(any(check.get("verdict") != "passed" for check in checked.values()))


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
        "tests": {name: tests(out, name, parts, False) for name in ("tests", "tests-slow")},
        "sanitizers": {tool: sanitizer(out, tool, parts) for tool in ("memcheck", "racecheck")},
        "peaks": bench.get("peaks", {}),
        "tiny": bench.get("tiny", False),
        "rows": bench.get("rows", []),
    }


def read_parts(path: Path) -> list[dict]:
    """What gpu.sh writes: name, status, seconds, note; one a line."""
    lines = [line for line in read_text(path).split("\n") if line]
    return [
        dict(zip(("name", "status", "seconds", "note"), [*line.split("\t"), "", "", ""], strict=False))
        for line in lines
    ]


def read_json(path: Path) -> dict:
    try:
        return json.loads(read_text(path) or "{}")
    except ValueError:
        return {}


def device() -> dict:
    """Return what nvidia-smi says of the GPU; empty where it finds none."""
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
        said = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=True).stdout
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


def outcomes(path: Path) -> dict:
    """tests: name -> the last word on it, or "began"; why: of those that did not pass; of: how many were to run."""
    found: dict = {"tests": {}, "why": {}, "of": 0}
    for line in read_text(path).split("\n"):
        try:
            said = json.loads(line)
        except ValueError:  # the last one, of a process that was stopped
            continue
        if "selected" in said:
            found["of"] = max(found["of"], said["selected"])
        elif found["tests"].get(said["id"]) not in ("failed", "errors"):
            found["tests"][said["id"]] = said["outcome"]
            if said.get("why"):
                found["why"][said["id"]] = said["why"]
    return found


def tests(out: Path, name: str, parts: list[dict], some: bool) -> dict:
    """passed: tests passed, and none failed, ended its process or is missing, unless `some` are enough."""
    status, note = next(((p["status"], p["note"]) for p in parts if p["name"] == name), ("not run", ""))
    found: dict = {"status": status, "note": note}
    if status == "not run":
        return found
    said = outcomes(out / f"{name}.jsonl")
    last, why = said["tests"], said["why"]
    if status != "did not finish":  # nobody stopped them
        last = {test: "errors" if word == "began" else word for test, word in last.items()}
    counts = Counter(last.values())
    bad = [test for test, word in last.items() if word in ("failed", "errors")]
    heard = sum("::" in test and word != "began" for test, word in last.items())  # the others are whole files
    if bad or (status == "failed" and counts["passed"]):
        found["verdict"] = "failed"
    elif status == "did not finish" or (heard < said["of"] and not some):
        found["verdict"] = "did not finish"
    else:
        found["verdict"] = "passed" if counts["passed"] else "nothing ran"
    return found | {
        "of": said["of"],
        **{word: counts[word] for word in ("passed", "failed", "errors", "skipped")},
        "names_failed": [f"{test}: {why.get(test, 'ended the process')}" for test in bad[:200]],
        "why_skipped": Counter(why.get(test, "") for test, word in last.items() if word == "skipped"),
    }


def sanitizer(out: Path, tool: str, parts: list[dict]) -> dict:
    """passed: the tool summed up without an error, and tests passed under it."""
    found = tests(out, tool, parts, True)
    if found["status"] == "not run":
        return found
    log = read_text(out / f"{tool}.log")
    summaries = re.findall(r"=+ (?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", log)
    if not summaries:
        said = next((s for s in log.split("\n") if "Error:" in s or "not supported" in s), "no summary")
        return found | {"status": "did not finish", "verdict": f"did not finish: {said.lstrip('= ').strip():.200}"}
    found["reported"] = sum(int(errors or hazards) for errors, hazards in summaries)
    found["first"] = [s.lstrip("= ") for s in re.findall(r"^=+ (?:Invalid|Error|Warning|Program hit).*", log, re.M)[:5]]
    if found["reported"]:
        found["verdict"] = "failed"
    return found


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


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
    checked = {**report["tests"], **report["sanitizers"]}
    lines += [""]
    lines += [f"- failed in {name}: {test}" for name, t in checked.items() for test in t.get("names_failed", [])[:40]]
    lines += [f"- {name}: {first}" for name, t in checked.items() for first in t.get("first", [])]
    lines += [
        f"- skipped in {name}: {n}, {why}" for name, t in checked.items() for why, n in t.get("why_skipped", {}).items()
    ]
    lines += [f"- {line}" for line in report["missing"]]
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
            found.append([row["name"], "not timed", *[""] * 6, apart, row.get("without", "")])
            continue
        seconds, peer, ratio, asked = row["seconds"], row["peer"], row["ratio"], row["asked"]
        share, asked_share = row.get("share"), row["asked_share"]
        others = [f"{n} {duration(s)}" for n, s in seconds.items() if n not in ("llmcore", peer)]
        others += [f"without {row['without']}"] if "without" in row else []
        found.append([
            row["name"], duration(seconds["llmcore"]), peer or "", duration(seconds[peer]) if peer else "",
            f"{ratio:.2f}x" if ratio else "", met(ratio if peer == row["asked_of"] else None, asked, f"{asked or 0:g}x"),
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

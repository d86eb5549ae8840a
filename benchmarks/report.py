"""Renders benchmark results as the tables between README's markers.

    python benchmarks/report.py benchmarks/results/*.local.json [--readme README.md]

Takes the JSON of pytest-benchmark and of train_gpt.py; without --readme the tables are printed.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
LIBRARIES = ["llmcore", "torch", "torch compiled", "numpy", "tiktoken", "tokenizers", "rustbpe"]
PEAK = {"float32": "fp32_gflops", "bfloat16": "bf16_gflops"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--readme", type=Path, help="replace what stands between its markers")
    args = parser.parse_args()
    text = render([json.loads(path.read_text()) for path in args.results])
    if args.readme is None:
        print(text)
        return
    readme = args.readme.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{args.readme}: expected {BEGIN} and {END}")
    args.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def render(results: list[dict]) -> str:
    """Markdown: training first, then the workloads, then where it ran."""
    training = [r for r in results if r.get("kind") == "train"]
    workloads = [r for r in results if "benchmarks" in r]
    parts = [train_table(r) for r in training] + [workload_tables(r) for r in workloads]
    places = [r["environment"] for r in training] + [r["machine_info"]["llmcore"] for r in workloads]
    return "\n\n".join([*parts, *dict.fromkeys(place(p) for p in places)])


def place(environment: dict) -> str:
    machine = environment["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    floors = "; ".join(
        f"{label} {machine[key]['1']:,.0f} and {machine[key]['all']:,.0f} {unit}"
        for label, key, unit in (
            ("float32", "fp32_gflops", "GFLOP/s"),
            ("bfloat16", "bf16_gflops", "GFLOP/s"),
            ("reading", "read_gb_s", "GB/s"),
        )
    )
    return (
        f"{machine['cpu']}, {machine['isa']}, {environment['threads']} threads, {environment['date']}; "
        f"Python {environment['python']}, {versions}. Measured peaks on one thread and on all: {floors}."
    )


def train_table(result: dict) -> str:
    rows = []
    peak = 1e9 * result["environment"]["machine"]["bf16_gflops"]["all"]
    for run in result["runs"]:
        ours = run["results"]["llmcore"]
        peers = {name: r for name, r in run["results"].items() if name != "llmcore"}
        best = max(peers.values(), key=lambda r: r["median"], default=None)
        for name, r in run["results"].items():
            speed = memory = ""
            if name == "llmcore" and best:
                speed = f"**{ours['median'] / best['median']:.2f}x**"
                memory = f"**{ours['peak_bytes'] / best['peak_bytes']:.2f}x**"
            model = f"{run['layers']} layers, {run['width']} wide, V={run['vocab_size']}, B={run['batch']}, "
            used = r["median"] * run["flops_per_token"] / peak
            rows.append(
                [
                    f"{model}T={run['context']}" if name == "llmcore" else "",
                    name,
                    f"{r['median']:,.0f}",
                    f"{used:.0%}",
                    speed,
                    f"{r['peak_bytes'] / 1e6:,.0f} MB",
                    memory,
                    f"{r['losses'][-1]:.3f}",
                ]
            )
    steps = len(result["runs"][0]["results"]["llmcore"]["losses"])
    header = [
        "training in bfloat16",
        "",
        "tok/s",
        "of peak flops",
        "vs best torch",
        "peak memory",
        "vs that torch",
        f"loss after {steps} steps",
    ]
    return table(header, rows)


def workload_tables(result: dict) -> str:
    """One row for each workload and dtype: the floor, each library's median, and llmcore against the best peer."""
    machine = result["machine_info"]["llmcore"]["machine"]
    groups: dict[tuple[str, str], dict] = defaultdict(dict)
    for b in result["benchmarks"]:
        info = b["extra_info"]
        groups[b["group"], info["dtype"]][info["library"]] = (b["stats"]["median"], info)
    used = [name for name in LIBRARIES if any(name in timings for timings in groups.values())]
    rows = []
    for (group, dtype), timings in groups.items():
        info = next(iter(timings.values()))[1]
        floor = floor_seconds(info, dtype, machine)
        peers = [seconds for name, (seconds, _) in timings.items() if name != "llmcore"]
        ratio = f"{min(peers) / timings['llmcore'][0]:.2f}x" if peers and "llmcore" in timings else ""
        cells = [duration(timings[name][0]) if name in timings else "" for name in used]
        rows.append([group, dtype, duration(floor) if floor else "", *cells, f"**{ratio}**" if ratio else ""])
    return table(["workload", "dtype", "floor", *used, "llmcore vs best peer"], rows)


def floor_seconds(info: dict, dtype: str, machine: dict) -> float:
    """The time that arithmetic or memory takes at least, whichever is longer. What fits the last
    cache need not come from memory."""
    flops, traffic = info.get("flops", 0), info.get("traffic", 0)
    arithmetic = flops / (1e9 * machine[PEAK[dtype]]["all"]) if flops and dtype in PEAK else 0.0
    memory = traffic / (1e9 * machine["read_gb_s"]["all"]) if traffic > machine["cache_bytes"] else 0.0
    return max(arithmetic, memory)


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(header: list[str], rows: list[list[str]]) -> str:
    align = ["---"] + [
        "---" if not any(c.isdigit() for r in rows for c in r[i]) else "--:" for i in range(1, len(header))
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


if __name__ == "__main__":
    main()

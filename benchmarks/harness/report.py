"""Renders benchmark results: every figure into benchmarks/RESULTS.md, an overview between README's markers.

    python -m benchmarks.harness.report benchmarks/results/*.local.json [--write]

Takes what compare.py and train_gpt.py write; without --write both are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

from benchmarks.harness.floors import PEAK, floor_seconds, roofline

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
RATES = (*dict.fromkeys(PEAK.values()), "read_gb_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="replace what stands between the markers of both files")
    args = parser.parse_args()
    results = [json.loads(path.read_text()) for path in args.results]
    share_peaks([r["environment"] for r in results])
    for path, text in ((ROOT / "README.md", overview(results)), (ROOT / "benchmarks/RESULTS.md", everything(results))):
        if not args.write:
            print(text, end="\n\n")
            continue
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{path}: expected {BEGIN} and {END}")
        path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def overview(results: list[dict]) -> str:
    """Markdown: training, and one row for each family of workloads."""
    training = [r for r in results if r["kind"] == "train"]
    rows = []
    for family in families(results):
        peers = dict.fromkeys(p for r in family for row in r["rows"] for p in row["seconds"] if p != "llmcore")
        if found := ratios(family):
            mean, least = statistics.geometric_mean(found), min(found)
            rows.append([title(family)[0], ", ".join(peers), f"**{mean:.2f}x**", f"{least:.2f}x"])
    header = ["beside peers, 1 and 2 threads", "peers", "times as fast as the best one, geometric mean", "at least"]
    return "\n\n".join([*([train_table(training)] if training else []), table(header, rows)])


def everything(results: list[dict]) -> str:
    """Markdown: a section for each family, then where it ran."""
    parts = []
    for family in families(results):
        name, about = title(family)
        parts.append(f"## {name}\n\n{about}{family_table(family)}")
    return "\n\n".join([*parts, "## Where\n\n" + places([r["environment"] for r in results])])


def families(results: list[dict]) -> list[list[dict]]:
    workloads = [r for r in results if r["kind"] == "ops"]
    return [[r for r in workloads if r["title"] == title] for title in dict.fromkeys(r["title"] for r in workloads)]


def title(family: list[dict]) -> tuple[str, str]:
    """(name, what else is said of it as a paragraph)."""
    name, _, about = family[0]["title"].rstrip(".:").partition(": ")
    return name, f"{about[:1].upper()}{about[1:]}.\n\n" if about else ""


def ratios(family: list[dict]) -> list[float]:
    """How many times as fast as the best peer."""
    return [row["ratio"] for result in family for row in result["rows"] if row["ratio"]]


def share_peaks(environments: list[dict]) -> None:
    """The best that any run measured on a machine counts for all of them: a neighbour can only slow it down."""
    best: dict[tuple, dict[str, float]] = {}
    for e in environments:
        for threads, key in ((1, "1"), (e["threads"], "all")):
            rates = best.setdefault((e["machine"]["cpu"], e["machine"]["isa"], threads), {})
            for name in RATES:
                rates[name] = max(rates.get(name, 0.0), e["machine"][name][key])
    for e in environments:
        for threads, key in ((1, "1"), (e["threads"], "all")):
            for name, rate in best[e["machine"]["cpu"], e["machine"]["isa"], threads].items():
                e["machine"][name][key] = rate


def places(environments: list[dict]) -> str:
    """One line for each machine and set of versions."""
    groups = defaultdict(list)
    for e in environments:
        versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
        groups[e["machine"]["cpu"], e["machine"]["isa"], e["date"], e["python"], versions].append(e)
    lines = []
    for (cpu, isa, date, python, versions), same in groups.items():
        rates = {}
        for e in same:
            for threads, key in ((1, "1"), (e["threads"], "all")):
                rates[threads] = {k: e["machine"][k][key] for k in RATES}
        peaks = "; ".join(
            f"{threads} thread{'s' * (threads > 1)}: float32 {best['fp32_gflops']:,.0f} GFLOP/s, bfloat16 "
            f"{best['bf16_gflops']:,.0f} GFLOP/s, reading {best['read_gb_s']:.0f} GB/s"
            for threads, best in sorted(rates.items())
        )
        lines.append(f"{cpu}, {isa}, {date}; Python {python}, {versions}. Measured peaks, {peaks}.")
    return "\n\n".join(lines)


def train_table(results: list[dict]) -> str:
    """Every library's updates of the same models; ours beside the fastest of the others in the same dtype."""
    rows = []
    for result in results:
        for run in result["runs"]:
            sizes = f"{run['layers']}x{run['width']}, V={run['vocab_size']}, B={run['batch']}, T={run['context']}"
            for i, r in enumerate(run["results"]):
                peers = [p for p in run["results"] if p["library"] != "llmcore" and p["dtype"] == r["dtype"]]
                speed = memory = ""
                if r["library"] == "llmcore" and peers:
                    best = max(peers, key=lambda p: p["tokens_per_second"])
                    speed = f"**{r['tokens_per_second'] / best['tokens_per_second']:.2f}x**"
                    memory = f"**{r['peak_bytes'] / best['peak_bytes']:.2f}x**"
                rows.append(
                    [
                        f"{run['name']} ({sizes})" if i == 0 else "",
                        r["dtype"],
                        r["library"],
                        f"{r['tokens_per_second']:,.0f}",
                        f"{roofline(run, r, result['environment']['machine']):.0%}",
                        speed,
                        f"{r['peak_bytes'] / 1e6:,.0f} MB",
                        memory,
                        f"{r['losses'][-1]:.3f}",
                    ]
                )
    header = [
        f"training, {results[0]['environment']['threads']} threads",
        "dtype",
        "library",
        "tok/s",
        "of the roofline",
        "vs best torch",
        "peak memory",
        "vs that torch",
        "last loss",
    ]
    return table(header, rows)


def family_table(family: list[dict]) -> str:
    """Work that has no floor gives each peer a column."""
    of_peers = all(row["dtype"] in ("text", "model") for result in family for row in result["rows"])
    rows = peer_table(family) if of_peers else workload_table(family)
    found = ratios(family)
    if not found:
        return rows
    summary = (
        f"{statistics.geometric_mean(found):.2f}x the best peer in the geometric mean, {min(found):.2f}x at least."
    )
    return f"{summary}\n\n{rows}"


def peer_table(results: list[dict]) -> str:
    """One row for each workload and number of threads: llmcore's time, each peer's, and how many times ours it is."""
    rows = [row for result in results for row in result["rows"]]
    peers = list(dict.fromkeys(name for row in rows for name in row["seconds"] if name != "llmcore"))

    def cell(row: dict, peer: str) -> str:
        ours, theirs = row["seconds"]["llmcore"], row["seconds"].get(peer)
        return f"{duration(theirs)}, **{theirs / ours:.2f}x**" if theirs else ""

    cells = [
        [row["name"], str(row["threads"]), duration(row["seconds"]["llmcore"]), *(cell(row, peer) for peer in peers)]
        for row in rows
    ]
    return table(["work", "threads", "llmcore", *peers], cells)


def workload_table(results: list[dict]) -> str:
    """One row for each workload and dtype: on all threads the floor, llmcore, and the fastest peer; the ratio on one."""
    most = max(r["environment"]["threads"] for r in results)
    found: dict[tuple[str, str], dict[int, tuple[dict, dict]]] = defaultdict(dict)
    for result in results:
        for row in result["rows"]:
            found[row["name"], row["dtype"]][row["threads"]] = row, result["environment"]["machine"]
    rows = []
    for (name, dtype), by_threads in found.items():
        cells = [name, dtype]
        row, machine = by_threads.get(most, (None, None))
        if row:
            ours = row["seconds"]["llmcore"]
            floor = floor_seconds(row, machine)
            peers = {k: s for k, s in row["seconds"].items() if k != "llmcore"}
            best = min(peers, key=peers.__getitem__, default=None)
            cells += [duration(floor) if floor else "", duration(ours), f"{floor / ours:.0%}" if floor else ""]
            cells += [f"{best} {duration(peers[best])}" if best else "", ratio(row)]
        else:
            cells += [""] * 5
        rows.append([*cells, *(ratio(by_threads[n][0]) if n in by_threads else "" for n in sorted_others(found, most))])
    others = [f"{n} thread{'s' * (n > 1)}" for n in sorted_others(found, most)]
    header = ["work", "dtype", f"floor, {most} threads", "llmcore", "of the floor", "best peer", "llmcore vs best peer"]
    return table([*header, *others], rows)


def sorted_others(found: dict, most: int) -> list[int]:
    return sorted({n for by_threads in found.values() for n in by_threads} - {most})


def ratio(row: dict) -> str:
    return f"**{row['ratio']:.2f}x**" if row["ratio"] else ""


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(header: list[str], rows: list[list[str]]) -> str:
    numeric = [
        any(c[:1].isdigit() or c.startswith("**") for r in rows for c in r[i : i + 1]) for i in range(len(header))
    ]
    align = ["---", *("--:" if n else "---" for n in numeric[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


if __name__ == "__main__":
    main()

"""The benchmarks' harness: it refuses wrong results before it times anything, and its tables say what was measured."""

import numpy as np
import pytest

from benchmarks.harness import compare, report
from benchmarks.harness.workload import Sides, Workload

MACHINE = {
    "cpu": "a processor",
    "isa": "avx2",
    "cache_bytes": 100,
    "fp32_gflops": {"1": 1.0, "all": 2.0},
    "bf16_gflops": {"1": 1.0, "all": 2.0},
    "read_gb_s": {"1": 1.0, "all": 1.0},
}
ENVIRONMENT = {"date": "2026-01-01", "python": "3.12", "versions": {"llmcore": "1"}, "machine": MACHINE}


def sides(peer_result: float) -> Sides:
    runs = {"llmcore": lambda: [np.ones(3)], "peer": lambda: [np.full(3, peer_result)]}
    workload = Workload(
        "ones", "float32", ("llmcore", "peer"), lambda: Sides(runs, lambda: [np.ones(3)], 2, 12), (), ()
    )
    return workload.sides()


def test_times_every_side():
    row = compare.compare(sides(1.0), seconds=0.0)
    assert row["seconds"].keys() == {"llmcore", "peer"}
    assert all(s > 0 for s in row["seconds"].values())
    assert row["ratio"] > 0
    assert row["rounds"] >= 5


def test_refuses_a_wrong_result():
    with pytest.raises(AssertionError, match="relative error"):
        compare.compare(sides(1.1), seconds=0.0)


def test_smoke_cuts_every_size():
    built = []
    made = Workload("x", "float32", ("llmcore",), lambda *shape: built.append(shape) or Sides({}), (4, 900), (7, 30))
    made.sides(), made.sides(smoke=True)
    assert built == [(4, 900), (4, 30)]


def test_work_that_is_prepared_is_called_once_for_each_preparation():
    prepared = []

    def prepare():
        prepared.append(0)

        def run():
            prepared[-1] += 1
            return []

        return run

    compare.compare(Sides({"llmcore": prepare}, list, fresh=True), seconds=0.0)
    assert prepared[0] == 3  # checked, and tried twice
    assert prepared[1:] == [1] * 5


def test_table_has_the_floor_and_both_thread_counts():
    row = {"name": "ones", "dtype": "float32", "flops": 2e9, "traffic": 0, "ratio": 3.0}
    results = [
        {
            "kind": "ops",
            "title": "Ones",
            "environment": ENVIRONMENT | {"threads": n},
            "rows": [row | {"threads": n, "seconds": seconds}],
        }
        for n, seconds in ((1, {"llmcore": 4.0, "peer": 12.0}), (2, {"llmcore": 2.0, "peer": 6.0}))
    ]
    text = report.everything(results)
    assert "| ones | float32 | 1 s | 2 s | 50% | peer 6 s | **3.00x** | **3.00x** |" in text
    assert "## Ones\n\n3.00x the best peer in the geometric mean, 3.00x at least.\n" in text
    assert "| Ones | peer | **3.00x** | 3.00x |" in report.overview(results)
    assert "2 threads: float32 2 GFLOP/s" in text


def test_table_of_texts_has_every_peer():
    row = {"name": "encode", "dtype": "text", "flops": 0, "traffic": 0, "ratio": 2.0, "threads": 1}
    row["seconds"] = {"llmcore": 1.0, "quick": 2.0, "slow": 30.0}
    text = report.everything(
        [{"kind": "ops", "title": "Encoding", "environment": ENVIRONMENT | {"threads": 1}, "rows": [row]}]
    )
    assert "| work | threads | llmcore | quick | slow |" in text
    assert "| encode | 1 | 1 s | 2 s, **2.00x** | 30 s, **30.00x** |" in text

"""Every workload under pytest-benchmark: a group per workload, an entry per library, results checked before the clock starts.

    python -m pytest benchmarks/ops -k norm --benchmark-json=norm.json     # then --benchmark-compare=norm.json
    python -m pytest benchmarks --benchmark-disable -q                     # each once, small, not timed

A file `bench_*.py` has workloads(), and a test that takes `entry`. The published ratios come from paired turns
(`benchmarks/run.py`). Files `test_*.py` run whole programs once, with little work.
"""

from __future__ import annotations

import gc
import json
import subprocess

import pytest

import llmcore
from benchmarks.harness.compare import use_threads
from benchmarks.harness.environment import versions
from benchmarks.harness.peers import missing, torch
from benchmarks.harness.process import ROOT, command
from benchmarks.harness.workload import Sides, Unavailable, Workload
from llmcore.data.python_qa import python_qa
from support.chat_models import save_chat_model

ROUNDS = 5  # of work that is prepared for every call


def pytest_addoption(parser):
    parser.addoption("--threads", type=int, default=llmcore.num_threads(), help="of every library")


def pytest_configure(config):
    use_threads(config.getoption("--threads"))
    if torch and config.getoption("--benchmark-disable"):
        torch.compiler.set_default_backend("aot_eager")  # not timed: no C++ compiler


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["llmcore"] = {"isa": llmcore.build_info()["isa"], "threads": llmcore.num_threads(), **versions()}


def pytest_generate_tests(metafunc):
    if "entry" in metafunc.fixturenames:
        found = [(w, library) for w in metafunc.module.workloads() for library in w.libraries]
        metafunc.parametrize("entry", found, ids=[f"{w.label}, {library}" for w, library in found], indirect=True)


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore"))  # other libraries' own


class Kept:
    """The inputs of one workload, which its entries share."""

    def __init__(self, smoke: bool):
        self.smoke = smoke
        self.workload: Workload | None = None
        self.sides: Sides | Unavailable | None = None

    def of(self, workload: Workload) -> Sides:
        if self.workload is not workload:
            self.sides = None
            if not self.smoke:
                gc.collect()  # some have gigabytes
            try:
                self.sides = workload.sides(self.smoke)
            except Unavailable as error:
                self.sides = error
            self.workload = workload
        if isinstance(self.sides, Unavailable):
            pytest.skip(str(self.sides))
        assert self.sides is not None
        return self.sides


@pytest.fixture(scope="session")
def kept(request):
    return Kept(smoke=request.config.getoption("--benchmark-disable"))


class Entry:
    """One library on one workload."""

    def __init__(self, benchmark, library: str, sides: Sides):
        self.benchmark, self.library, self.sides = benchmark, library, sides

    def measure(self) -> None:
        run = self.sides.ready(self.library)
        self.sides.verify(self.library, run())
        if self.sides.fresh:
            self.benchmark.pedantic(
                lambda prepared: prepared(), setup=lambda: ((self.sides.ready(self.library),), {}), rounds=ROUNDS
            )
        else:
            self.benchmark(run)


@pytest.fixture
def entry(request, kept, benchmark):
    workload, library = request.param
    benchmark.group, benchmark.name = workload.label, library
    benchmark.extra_info |= {"threads": llmcore.num_threads()}
    if why := missing(library):
        pytest.skip(why)
    sides = kept.of(workload)
    benchmark.extra_info |= {"flops": sides.flops, "traffic": sides.traffic}
    return Entry(benchmark, library, sides)


# ---- whole programs ----


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    """A folder with a small model that has learned nothing, in place of those that are pulled or made by the demo."""
    texts = [f"{row['prompt']} {row['completion']}" for row in python_qa()[:300]]
    return save_chat_model(tmp_path_factory.mktemp("model") / "sft", texts, 1000, kv_heads=2, context=512)


@pytest.fixture
def smoke(tmp_path):
    """Run a program once, with little work; returns the result that it wrote."""

    def run(module: str, *arguments: object) -> dict:
        path = tmp_path / "result.json"
        subprocess.run([*command(module, "--smoke", *arguments), "--json", str(path)], check=True, cwd=ROOT)
        return json.loads(path.read_text())

    return run

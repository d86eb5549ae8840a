"""The GPU's tests side by side, with nothing but pytest; and the plugin that they run with.

    python -m benchmarks.gpu.pytest_workers WORKERS RESULTS PYTEST_ARGUMENT...     # as gpu.sh does

RESULTS gets a line of JSON for every word on a test, as soon as it is known (report.py reads them): what was not finished
is seen, and nothing is counted that did not run. Workers take one file of tests after another. Where a kernel's error leaves a
worker without the device, or a test ends it, a new one continues after that test: the others must not fail for that.

Of the plugin alone (`python -m pytest -p benchmarks.gpu.pytest_workers`), by environment:
  LLMCORE_TESTS_RESULTS   the file
  LLMCORE_TESTS_WORKER    a worker's name: it runs the files that no other has taken
  LLMCORE_TESTS_SECONDS   as many tests as there is time for, from everywhere, in a mixed order; then it ends as if they were all
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.gpu.report import outcomes

RESULTS = os.environ.get("LLMCORE_TESTS_RESULTS")
WORKER = os.environ.get("LLMCORE_TESTS_WORKER")
LIMIT = float(os.environ.get("LLMCORE_TESTS_SECONDS") or 0)
BEGAN = time.monotonic()
UP = "the time was up"
LOST = 70  # exit status of a worker without the device
NEW_WORKERS = 30  # at most, in place of each


# ---- the plugin ----


def tell(**said: object) -> None:
    if RESULTS:
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if LIMIT:
        items.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))


def pytest_collection_finish(session):
    tell(selected=len(session.items))


def pytest_collectreport(report):
    if not report.passed:
        tell(id=report.nodeid, outcome="errors" if report.failed else "skipped", why=why(report))


def pytest_runtestloop(session):
    """A worker's: the files that it takes."""
    if WORKER is None or session.config.option.collectonly:
        return None
    told = outcomes(Path(RESULTS))["tests"]
    for file, items in itertools.groupby(session.items, lambda item: item.nodeid.partition("::")[0]):
        items = [item for item in items if item.nodeid not in told]
        if items and taken(file):
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    return True


def taken(file: str) -> bool:
    """Whether a file is this worker's."""
    claim = Path(f"{RESULTS}.taken", file.replace("/", "-"))
    try:
        with claim.open("x") as made:
            made.write(WORKER)
    except FileExistsError:
        return claim.read_text() == WORKER  # it was the last one's of this name
    return True


def pytest_runtest_logstart(nodeid):
    tell(id=nodeid, outcome="began")


def pytest_runtest_logreport(report):
    if report.when == "call" or not report.passed:
        broken = "failed" if report.when == "call" else "errors"
        tell(id=report.nodeid, outcome=broken if report.failed else report.outcome, why=why(report))
    if report.failed and WORKER is not None and unusable():
        sys.__stderr__.write(f"{report.longreprtext}\n")  # which pytest would show at the end
        sys.__stderr__.flush()
        os._exit(LOST)


def pytest_runtest_teardown(item):
    if LIMIT and time.monotonic() - BEGAN > LIMIT:
        item.session.shouldstop = UP


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if session.shouldstop == UP and not session.testsfailed and session.testscollected:
        session.exitstatus = pytest.ExitCode.OK


def why(report) -> str:
    """In a line."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else said or report.longreprtext.strip().rpartition("\n")[2]
    return " ".join(text.removeprefix("Skipped: ").split())[:300]


def unusable() -> bool:
    from llmcore import _core

    try:
        _core.synchronize()
    except RuntimeError:
        return True
    return False


# ---- who runs them ----


def run(worker: str, results: Path, arguments: list[str]) -> int:
    """The exit status of the last one of this name."""
    environment = {**os.environ, "LLMCORE_TESTS_RESULTS": str(results), "LLMCORE_TESTS_WORKER": worker}
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu.pytest_workers", *arguments]
    with results.with_name(f"{results.stem}-{worker}.log").open("ab") as log:
        for _ in range(NEW_WORKERS):
            status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
            if status >= 0 and status != LOST:
                break
    return status


def main() -> None:
    workers, results, arguments = int(sys.argv[1]), Path(sys.argv[2]).absolute(), sys.argv[3:]
    claims = Path(f"{results}.taken")
    shutil.rmtree(claims, ignore_errors=True)
    claims.mkdir(parents=True)
    results.unlink(missing_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        statuses = list(pool.map(lambda i: run(str(i), results, arguments), range(workers)))
    counts = Counter(outcomes(results)["tests"].values())
    print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "nothing ran")
    sys.exit(max((status for status in statuses if status != 5), key=abs, default=5))


if __name__ == "__main__":
    main()

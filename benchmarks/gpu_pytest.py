"""A plugin for the GPU's tests: `python -m pytest -p gpu_pytest -m gpu`.

LLMCORE_TESTS_SECONDS: as many tests as there is time for, taken from everywhere, in a mixed order; then it ends as if they were all.
Where a kernel's error leaves a worker of pytest-xdist without the device, the worker ends, and a new one goes on: the
tests that follow must not fail for that.
"""

import os
import time
import zlib

import pytest

LIMIT = float(os.environ.get("LLMCORE_TESTS_SECONDS") or 0)
BEGAN = time.monotonic()
UP = "the time was up"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if LIMIT:
        items.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    done = yield
    if LIMIT and time.monotonic() - BEGAN > LIMIT:
        item.session.shouldstop = UP
    return done


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if session.shouldstop == UP and not session.testsfailed and session.testscollected:
        session.exitstatus = pytest.ExitCode.OK


def pytest_runtest_logreport(report):
    if report.failed and "PYTEST_XDIST_WORKER" in os.environ and _unusable():
        os._exit(70)


def _unusable() -> bool:
    from llmcore import _core

    try:
        _core.synchronize()
    except RuntimeError:
        return True
    return False

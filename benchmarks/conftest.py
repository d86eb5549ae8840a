"""Puts into every benchmark's JSON where it ran, and keeps other libraries' warnings from failing it."""

import pytest

from environment import environment


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["llmcore"] = environment()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name.startswith("bench_"):
            item.add_marker(pytest.mark.filterwarnings("ignore"))

"""One suite for every device: tests of ops, models, losses, training and generation run on the CPU, and with `-m gpu` on
the GPU, where they are skipped when there is none."""

import os
from pathlib import Path

import pytest

# One thread for numpy's twins: their matrices are small, and more of them would spin beside the threads that are tested.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from llmcore import _device  # numpy, which reads it, is loaded here

ON_DEVICES = ("ops", "models", "losses", "train", "generate")


def pytest_generate_tests(metafunc):
    folder = Path(metafunc.definition.path).relative_to(Path(__file__).parent).parts[0]
    if folder in ON_DEVICES and not any(metafunc.definition.iter_markers("host")):
        devices = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
        metafunc.parametrize("device", devices, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def device(request):
    """Where everything is put in this test."""
    name, before = getattr(request, "param", "cpu"), os.environ.get("LLMCORE_DEVICE")
    try:
        _device.checked(name)
    except RuntimeError as error:
        pytest.skip(str(error))
    os.environ["LLMCORE_DEVICE"] = name  # for the processes that a test starts
    with _device.on(name):
        yield name
    if before is None:
        del os.environ["LLMCORE_DEVICE"]
    else:
        os.environ["LLMCORE_DEVICE"] = before

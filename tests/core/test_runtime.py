"""Tensors and numpy, threads, forks, the allocator, and what the build says of itself."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops

ml_dtypes = pytest.importorskip("ml_dtypes")


@pytest.fixture(autouse=True)
def restore_threads():
    before = llmcore.num_threads()
    yield
    llmcore.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint32", "uint8", ml_dtypes.bfloat16])
def test_numpy_there_and_back(dtype):
    a = np.arange(24).reshape(2, 3, 4).astype(dtype)
    t = llmcore.tensor(a)
    np.testing.assert_array_equal(t.numpy(), a)
    assert t.shape == a.shape
    assert t.dtype == a.dtype.name


def test_contiguous_numpy_is_not_copied_and_outlives_its_array():
    a = np.arange(10, dtype=np.float32)
    t = llmcore.tensor(a)
    a[3] = 99
    assert t.numpy()[3] == 99
    view = llmcore.tensor(np.ones(1000, np.float32)).numpy()
    assert view.sum() == 1000


def test_ops_allocate_their_result_and_no_copies():
    x, ones = np.ones((512, 512), np.float32), np.ones(512, np.float32)
    for op in (ops.gelu, ops.softmax, lambda x: ops.add(x, x), lambda x: ops.layer_norm(x, ones, ones)):
        _core.reset_peak_memory()
        before = _core.memory_stats()["peak"]
        op(x)
        assert _core.memory_stats()["peak"] - before < 1.2 * x.nbytes


@pytest.mark.parametrize(
    "a",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        np.arange(24, dtype=np.float32).reshape(4, 6).T,
        np.arange(24, dtype=np.float32)[::-1],
        np.frombuffer(b"x" + np.arange(6, dtype=np.float32).tobytes(), np.uint8)[1:].view(np.float32),
        np.arange(6, dtype=">f4"),
        np.float32(3.5),
        np.zeros((0, 5), np.float32),
    ],
    ids=["strided", "transposed", "reversed", "misaligned", "big-endian", "scalar", "empty"],
)
def test_views_of_any_layout(a):
    np.testing.assert_array_equal(llmcore.tensor(a).numpy(), a)
    np.testing.assert_array_equal(ops.mul(llmcore.tensor(a), 2.0).numpy(), np.asarray(a) * 2)


def test_dlpack_comes_in():
    class Foreign:  # only DLPack, no numpy protocol
        def __init__(self, a):
            self.a = a

        def __dlpack__(self, **kwargs):
            return self.a.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.a.__dlpack_device__()

    np.testing.assert_array_equal(llmcore.tensor(Foreign(np.ones(3, np.float32))).numpy(), np.ones(3))


@pytest.mark.parametrize("dtype", ["float16", "complex64", "bool", "U3", "O"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=r"\[tensor\] expected"):
        llmcore.tensor(np.zeros(3, dtype))


def test_impossible_sizes_are_refused():
    for shape in ([2**62, 4], [-1], [2**50]):
        with pytest.raises(ValueError, match=r"\[tensor\] expected"):
            _core.empty(shape, _core.DType.float32)
    with pytest.raises(ValueError, match="'cpu' or 'cuda', got 'tpu'"):
        llmcore.tensor([1.0], device="tpu")


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_bad_thread_counts(n):
    with pytest.raises(ValueError, match="1 <= n <= 1024"):
        llmcore.set_num_threads(n)
    with pytest.raises(TypeError):
        llmcore.set_num_threads(1.5)


def test_python_threads_share_the_pool():
    llmcore.set_num_threads(4)
    x = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    expected = ops.matmul(x, x.T.copy()).numpy()
    failures = []

    def work():
        for i in range(50):
            if not np.array_equal(ops.matmul(x, x.T.copy()).numpy(), expected):
                failures.append(i)

    def resize():
        for n in (1, 2, 3, 8) * 5:
            llmcore.set_num_threads(n)

    threads = [threading.Thread(target=work) for _ in range(4)] + [threading.Thread(target=resize)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes():
    code = """
import os, sys, warnings, numpy as np, llmcore
warnings.simplefilter("ignore")
from llmcore import ops
llmcore.set_num_threads(4)
x = np.ones((256, 256), np.float32)
before = ops.matmul(x, x).numpy()
pid = os.fork()
if pid == 0:
    os._exit(0 if np.array_equal(ops.matmul(x, x).numpy(), before) else 3)
_, status = os.waitpid(pid, 0)
assert np.array_equal(ops.matmul(x, x).numpy(), before)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_affinity_limits_the_default_threads():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs affinity")
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import llmcore; print(llmcore.num_threads())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "1", out.stderr


def test_forced_isa_and_its_error():
    def isa(name):
        env = os.environ | {"LLMCORE_CPU_ISA": name}
        code = "import llmcore; print(llmcore.build_info()['isa'])"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)

    for name in llmcore.build_info()["isas_supported"]:
        assert isa(name).stdout.strip() == name
    assert "[LLMCORE_CPU_ISA] expected one of" in isa("sse9").stderr


def test_memory_is_reused_and_released():
    _core.release_cached_memory()
    _core.empty([1 << 20], _core.DType.float32)
    assert _core.memory_stats()["cached"] >= 4 << 20
    before = _core.memory_stats()["cached"]
    kept = _core.empty([1 << 20], _core.DType.float32)
    assert _core.memory_stats()["cached"] < before
    del kept
    _core.release_cached_memory()
    assert _core.memory_stats()["cached"] == 0


def test_large_blocks_never_overlap_and_holes_are_joined():
    """Random sizes come and go; each keeps its own pattern, and what is free in the end is one hole for one more."""
    _core.release_cached_memory()
    before = _core.memory_stats()
    rng = np.random.default_rng(0)
    alive = {}
    for i in range(2000):
        if len(alive) < 20 or rng.random() < 0.45:
            block = _core.empty([int(rng.integers(30_000, 400_000))], _core.DType.float32)
            block.numpy()[...] = i
            alive[i] = block
        else:
            key = list(alive)[int(rng.integers(len(alive)))]
            assert (alive.pop(key).numpy() == key).all()
    assert all((block.numpy() == key).all() for key, block in alive.items())
    alive.clear()
    del block
    after = _core.memory_stats()
    assert after["allocated"] == before["allocated"]
    size = after["cached"] - before["cached"]
    whole = _core.empty([size // 4], _core.DType.float32)
    assert _core.memory_stats()["cached"] - before["cached"] < size // 50
    del whole
    _core.release_cached_memory()
    assert _core.memory_stats()["cached"] == 0


def test_large_blocks_where_address_space_is_scarce():
    done = run_python(
        "import resource, numpy as np\n"
        "from llmcore import _core\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)\n"
        "f32 = _core.DType.float32\n"
        "for n in (10 << 20, 20 << 20, 40 << 20, 5 << 20):\n"  # 40 to 160 MB, no reservation of a gigabyte
        "    _core.zeros([n], f32)\n"
        "kept = _core.zeros([20 << 20], f32)\n"
        "try:\n"
        "    _core.zeros([200 << 20], f32)\n"
        "except MemoryError:\n"
        "    print('refused', kept.numpy().sum())\n"
    )
    assert done.stdout.strip() == "refused 0.0", done.stderr


def run_python(code):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)


def test_threads_that_cannot_be_started_are_done_without():
    done = run_python(
        "import resource, numpy as np\n"
        "from llmcore import ops, set_num_threads\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1500 << 20, 1500 << 20))\n"
        "set_num_threads(1024)\n"
        "for _ in range(2):\n"
        "    assert (ops.mul(np.ones((1000, 1000), np.float32), 2.0).numpy() == 2).all()\n"
        "    set_num_threads(2)\n"
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_while_threads_allocate():
    done = run_python(
        "import os, signal, threading\n"
        "from llmcore import _core\n"
        "stop = False\n"
        "def work(n):\n"
        "    x = _core.zeros([n], _core.DType.float32)\n"
        "    while not stop:\n"
        "        _core.add(x, x)\n"
        "threads = [threading.Thread(target=work, args=(64 + n,)) for n in range(3)]\n"
        "for t in threads: t.start()\n"
        "ends = []\n"
        "for _ in range(100):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.alarm(5)\n"
        "        _core.zeros([10], _core.DType.float32)\n"
        "        os._exit(0)\n"
        "    ends.append(os.waitpid(child, 0)[1])\n"
        "stop = True\n"
        "assert not any(ends), ends\n"
    )
    assert done.returncode == 0, done.stderr

"""Devices: what is said where there is none, and what a tensor on one can do."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import llmcore
from llmcore import _core, _device, nn, ops
from llmcore._arrays import array_to_numpy, to_array
from llmcore.errors import DeviceError
from llmcore.train import PretrainConfig

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = [np.float32, ml_dtypes.bfloat16, np.int32, np.int64, np.uint32, np.uint8]


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.parametrize("device", ["cuda"], indirect=True)(test))


def numbers(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


# ---- without a GPU ----


def run(code, library):
    environment = {**os.environ, "LLMCORE_CUDA_LIBRARY": str(library), "LLMCORE_DEVICE": ""}
    return subprocess.run([sys.executable, *code], capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("none", "this build of llmcore has no CUDA kernels"),
        ("text", "the library of CUDA kernels cannot be opened: "),
        ("other", "is not llmcore's library of CUDA kernels"),
    ],
)
def test_what_is_missing_is_said_in_one_line(library, line, tmp_path):
    path = tmp_path / "libllmcore_cuda.so"
    if library == "text":
        path.write_text("no library")
    if library == "other":
        path = _core.__file__
    said = run(["-c", "import llmcore; llmcore.set_device('cuda')"], path).stderr.strip().splitlines()[-1]
    assert said.startswith("llmcore.errors.DeviceError: [cuda] "), said
    assert line in said
    done = run(["-m", "llmcore", "pretrain", "--device", "cuda", "--out", str(tmp_path / "run")], path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert line in done.stderr


def test_unknown_devices_are_named():
    for use in (llmcore.set_device, lambda name: llmcore.tensor([1.0], device=name), llmcore.tensor([1.0]).to):
        with pytest.raises(ValueError, match=r"\[device\] expected 'cpu' or 'cuda', got 'tpu'"):
            use("tpu")
    with pytest.raises(ValueError, match=r"\[device\] expected 'cpu' or 'cuda', got 'tpu'"):
        _core.zeros([1], _core.DType.float32, "tpu")


def test_the_first_gpu_has_a_number():
    assert [_device.named(name) for name in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda", "cuda"]
    for use in (llmcore.set_device, lambda name: nn.Linear(2, 3).to(name), lambda name: PretrainConfig(device=name)):
        with pytest.raises(
            ValueError, match=r"\[device\] expected 'cuda', as one GPU is used, the first, got 'cuda:1'"
        ):
            use("cuda:1")
        with pytest.raises(ValueError, match=r"\[device\] expected 'cpu' or 'cuda', got 'tpu'"):
            use("tpu")
    assert PretrainConfig(device="cuda:0").device == "cuda"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tpu", "[device] expected LLMCORE_DEVICE 'cpu' or 'cuda', got 'tpu'"),
        ("cuda:1", "[device] expected LLMCORE_DEVICE 'cuda', as one GPU is used, the first, got 'cuda:1'"),
        ("cuda", "[cuda] LLMCORE_DEVICE=cuda, but this build of llmcore has no CUDA kernels"),
        ("cuda:0", "[cuda] LLMCORE_DEVICE=cuda, but this build of llmcore has no CUDA kernels"),
    ],
)
def test_the_variable_is_named_and_gives_way(monkeypatch, name, line):
    """What it says cannot be had: that is said where it counts, and nowhere else."""
    monkeypatch.setenv("LLMCORE_DEVICE", name)
    monkeypatch.setattr(_device, "_default", None)
    monkeypatch.setattr(_device, "cuda_info", no_kernels)
    with pytest.raises((ValueError, RuntimeError), match=re.escape(line)):
        llmcore.device()
    with pytest.raises((ValueError, RuntimeError), match=re.escape(line)), _device.on(None):
        pass
    with _device.on("cpu"):
        assert llmcore.device() == llmcore.tensor([1.0]).device == "cpu"
    with pytest.raises((ValueError, RuntimeError), match=re.escape(line)):
        llmcore.device()  # as it was before
    build = llmcore.build_info()
    assert line.endswith(build["device"])
    assert build["dtype"] in ("float32", "bfloat16")
    llmcore.set_device("cpu")
    assert llmcore.build_info()["device"] == llmcore.device() == "cpu"


def no_kernels():
    raise DeviceError("cuda", "this build of llmcore has no CUDA kernels")


def test_the_cpu_is_the_default_and_a_module_stays():
    assert llmcore.device() == "cpu"
    layer = nn.Linear(3, 4)
    before = layer.weight.array
    assert layer.to("cpu").device == "cpu"
    assert layer.weight.array is before
    with _device.on("cpu"):
        assert llmcore.device() == "cpu"


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_goes_out_and_comes_in(dtype):
    x = llmcore.tensor(numbers((3, 4), dtype))
    if dtype is not ml_dtypes.bfloat16:  # which numpy has no dtype for
        there = np.from_dlpack(x)
        assert there.dtype == dtype
        assert there.ctypes.data == x.numpy().ctypes.data
    back = _core.from_dlpack(_core.to_dlpack(x.array.narrow(1, 1, 2)))
    np.testing.assert_array_equal(array_to_numpy(back), x.numpy()[:, 1:3])


def test_dlpack_keeps_memory_and_capsules_serve_once():
    x = llmcore.tensor(numbers((1000,)))
    there, expected = np.from_dlpack(x), x.numpy().copy()
    del x
    others = [llmcore.tensor(np.zeros(1000, np.float32)) for _ in range(8)]
    np.testing.assert_array_equal(there, expected)
    assert others
    capsule = _core.to_dlpack(llmcore.tensor([1.0]).array)
    _core.from_dlpack(capsule)
    with pytest.raises(ValueError, match=r"\[from_dlpack\] expected an unused 'dltensor' capsule"):
        _core.from_dlpack(capsule)
    fixed = np.ones(3, np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"\[to_dlpack\] expected writable memory"):
        _core.to_dlpack(_core.from_numpy(fixed))


def test_dlpack_copies_where_it_is_asked_to():
    x = llmcore.tensor(numbers((5,)))
    there = np.from_dlpack(x, copy=True)
    np.testing.assert_array_equal(there, x.numpy())
    assert there.ctypes.data != x.numpy().ctypes.data
    assert np.from_dlpack(x, device="cpu").ctypes.data == x.numpy().ctypes.data
    with pytest.raises(BufferError, match=r"\[dlpack\] expected device \(1, 0\), got \(2, 0\)"):
        x.__dlpack__(dl_device=(2, 0))


@pytest.mark.peers
def test_dlpack_with_torch():
    import torch

    x = llmcore.tensor(numbers((3, 4)), "bfloat16")
    there = torch.from_dlpack(x)
    assert there.dtype == torch.bfloat16
    there[0, 0] = 7
    assert float(x.numpy()[0, 0]) == 7
    mine = to_array(torch.arange(12, dtype=torch.bfloat16).reshape(3, 4).t())
    np.testing.assert_array_equal(array_to_numpy(mine).astype(np.float32), np.arange(12).reshape(3, 4).T)


# ---- on a GPU ----


@on_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(dtype, device):
    x = numbers((5, 7, 3), dtype)
    for part in (x, x[1:4, ::2], x.transpose(2, 0, 1), x[:0], x[:, 3:3], np.asarray(x[0, 0, 0])):
        t = llmcore.tensor(part).to("cuda")
        assert (t.device, t.shape) == ("cuda", part.shape)
        np.testing.assert_array_equal(t.numpy(), part)
        np.testing.assert_array_equal(t.to("cpu").numpy(), part)
    large = numbers((3, 5 << 20), np.uint8)  # more than goes in one piece
    np.testing.assert_array_equal(llmcore.tensor(large).to("cuda").numpy(), large)


@on_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_views_are_copied_element_by_element(dtype, device):
    x = numbers((6, 8, 16), dtype)
    t = llmcore.tensor(x).to("cuda").array
    np.testing.assert_array_equal(array_to_numpy(t.narrow(1, 2, 3).narrow(2, 8, 8).contiguous()), x[:, 2:5, 8:])
    np.testing.assert_array_equal(array_to_numpy(t.narrow(2, 3, 5).narrow(0, 1, 2).contiguous()), x[1:3, :, 3:8])
    t.narrow(2, 5, 3).copy_from(t.narrow(2, 0, 3))
    x[:, :, 5:8] = x[:, :, :3]
    t.narrow(0, 0, 2).narrow(1, 1, 2).copy_from(to_array(x[2:4, :2]))  # from the host
    x[:2, 1:3] = x[2:4, :2]
    t.narrow(1, 7, 1).zero()
    x[:, 7] = 0
    np.testing.assert_array_equal(array_to_numpy(t), x)


@on_gpu
def test_what_numpy_shows_is_a_copy_that_cannot_be_written(device):
    t = llmcore.tensor([1.0, 2.0])
    assert t.device == "cuda"
    with pytest.raises(ValueError, match="read-only"):
        t.numpy()[0] = 3


@on_gpu
def test_two_devices_in_one_op_are_named(device):
    here, there = llmcore.tensor(np.ones((2, 2), np.float32), device="cpu"), llmcore.tensor(np.ones((2, 2), np.float32))
    for op, message in (
        (ops.add, r"\[add\] expected b on cpu, got cuda"),
        (ops.matmul, r"\[matmul\] expected b on cpu, got cuda"),
        (ops.linear, r"\[linear\] expected x, like the weight, on cuda, got cpu"),
        (lambda a, b: ops.rms_norm(a, b.reshape(4)), r"\[rms_norm\] expected weight"),
    ):
        with pytest.raises(ValueError, match=message):
            op(here, there)


@on_gpu
def test_memory_that_is_not_there_is_an_error_with_figures(device):
    total = _device.cuda_info()["memory"]
    with pytest.raises(MemoryError, match=r"out of memory: \d+ MB requested, .* free, .* held by tensors here"):
        _core.empty([total], _core.DType.float32, "cuda")
    np.testing.assert_array_equal(ops.add(np.ones(3, np.float32), np.ones(3, np.float32)).numpy(), 2)  # and all goes on


@on_gpu
def test_memory_is_used_again(device):
    def step():
        for n in (1000, 300_000, 5_000_000, 17):
            _core.empty([n], _core.DType.float32, "cuda")
        return _core.memory_stats("cuda")

    _core.release_cached_memory()
    first = step()
    for _ in range(5):
        assert step() == first
    kept = _core.empty([1 << 20], _core.DType.float32, "cuda")
    assert _core.memory_stats("cuda")["allocated"] == first["allocated"] + (4 << 20)
    del kept
    _core.release_cached_memory()
    assert _core.memory_stats("cuda")["allocated"] == first["allocated"]


@on_gpu
def test_a_plan_reads_the_host_anew(device):
    """As one graph: ids of the host are checked and sent before it runs."""
    table, scale = llmcore.tensor(numbers((10, 8))), llmcore.tensor(np.full((2, 8), 3.0, np.float32))
    ids = np.array([3, 4], np.int32)
    plan = _core.Plan()
    plan.begin()
    try:
        out = ops.mul(ops.embedding(ids, table), scale).array
        again = ops.embedding(ids, table).array
    finally:
        plan.end()
    for now in ([3, 4], [0, 9], [5, 5]):
        ids[:] = now
        plan.run()
        np.testing.assert_array_equal(out.numpy(), 3 * table.numpy()[now])
        np.testing.assert_array_equal(again.numpy(), table.numpy()[now])
    ids[1] = 10
    with pytest.raises(ValueError, match=r"\[embedding\] expected ids in \[0, 10\), got 10 at 1"):
        plan.run()
    ids[1] = 1
    plan.run()
    np.testing.assert_array_equal(out.numpy(), 3 * table.numpy()[[5, 1]])


@on_gpu
def test_a_plan_that_would_wait_for_the_host_is_refused(device):
    x = llmcore.tensor([1.0])
    plan = _core.Plan()
    plan.begin()
    try:
        with pytest.raises(RuntimeError, match=r"\[plan\] expected a step that stays on the device"):
            x.numpy()
    finally:
        plan.end()


@on_gpu
def test_a_module_moves_with_its_gradients(device):
    with _device.on("cpu"):
        layer = nn.Linear(4, 3)
        layer.weight.assign(numbers((3, 4)))
        x = llmcore.tensor(numbers((2, 4), seed=1))
        expected = layer(x).numpy()
    layer.to("cuda")
    assert layer.device == layer.weight.device == "cuda"
    y = layer(x.to("cuda"))
    np.testing.assert_array_equal(y.numpy(), expected)
    y.backward(np.ones((2, 3), np.float32))
    gradient = array_to_numpy(layer.weight.grad)
    layer.to("cpu")
    np.testing.assert_array_equal(array_to_numpy(layer.weight.grad), gradient)
    np.testing.assert_array_equal(layer(x).numpy(), expected)


@on_gpu
@pytest.mark.peers
def test_dlpack_with_torch_on_the_gpu(device):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch knows no GPU")
    x = llmcore.tensor(numbers((3, 4)), "bfloat16")
    there = torch.from_dlpack(x)
    assert there.is_cuda
    there += 1
    torch.cuda.synchronize()  # torch has a stream of its own
    np.testing.assert_array_equal(x.numpy().astype(np.float32), numbers((3, 4)) + 1)
    mine = ops.mul(torch.ones(5, 6, device="cuda").t(), 3.0)
    np.testing.assert_array_equal(mine.numpy(), np.full((6, 5), 3, np.float32))

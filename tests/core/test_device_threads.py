"""A GPU that several threads use at once."""

import threading

import numpy as np
import pytest

from llmcore import _core

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("device", ["cuda"], indirect=True)]


def together(work, count=2):
    """work(i) in `count` threads that begin at once; what went wrong in any is raised here."""
    start, failed = threading.Barrier(count), []

    def run(i):
        start.wait()
        try:
            work(i)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def on_gpu(values):
    return _core.from_numpy(np.asarray(values)).to("cuda")


def test_each_product_has_its_own_bias(device):
    weight = _core.pack(on_gpu(np.ones((64, 64), np.float32)), _core.DType.bfloat16, True)
    x = _core.zeros([16, 64], _core.DType.bfloat16, "cuda")  # more rows than go without cuBLASLt

    def work(i):
        bias = on_gpu(np.full(64, i + 1, np.float32))
        for _ in range(300):
            out = _core.linear(x, weight, bias)[0].numpy()
            np.testing.assert_array_equal((out.astype(np.uint32) << 16).view(np.float32), i + 1)

    together(work)


def test_each_plan_has_its_own_graph(device):
    def work(i):
        x, y = on_gpu(np.full(8, i + 1, np.float32)), _core.zeros([8], _core.DType.float32, "cuda")
        plan = _core.Plan()
        plan.begin()
        for _ in range(2000):
            y.copy_from(x)
        plan.end()
        for _ in range(3):
            y.zero()
            plan.run()
            np.testing.assert_array_equal(y.numpy(), i + 1)

    for _ in range(5):
        together(work)


def test_small_uploads_of_a_plan(device):
    """Token numbers of a recorded step, which lie on the host: what they are when it is replayed counts."""
    table = on_gpu(np.arange(40, dtype=np.float32).reshape(20, 2))
    ids = [np.array([1, 2], np.int32), np.array([3], np.int32), np.arange(20, dtype=np.int32).repeat(1000)]
    hosts = [_core.from_numpy(i) for i in ids]
    plan = _core.Plan()
    plan.begin()
    outs = [_core.embedding(table, host, _core.DType.float32) for host in hosts]
    plan.end()
    for shift in range(3):
        for i, values in enumerate(ids):
            values += shift > 0
            values %= 20
            np.testing.assert_array_equal(hosts[i].numpy(), values)  # the same memory
        plan.run()
        for out, values in zip(outs, ids, strict=True):
            np.testing.assert_array_equal(out.numpy(), np.arange(40).reshape(20, 2)[values])

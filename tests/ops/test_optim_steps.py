"""Lion, SGD, Muon, and ten steps of all optimizers, against float64 twins and torch."""

import numpy as np
import pytest

from llmcore import _core, nn, optim
from llmcore._core import DType
from llmcore.optim.muon import orthogonalised
from reference import optim as reference
from support.arrays import array
from support.gradcheck import random
from support.threads import assert_same_bits
from support.tolerances import assert_close

SIZES = [(7, 5), (64, 64), (40, 100), (100, 40), (96, 32)]


def f32(shape, seed, scale=1.0):
    return (scale * random(shape, seed=seed)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 33, 40001])
def test_lion(n):
    p, g, m = f32(n, 0), f32(n, 1), f32(n, 2)
    g[0] = m[0] = 0.0  # of no sign: only the decay acts
    arrays = [array(a) for a in (p, g, m)]
    _core.lion(*arrays, lr=3e-3, beta1=0.9, beta2=0.99, weight_decay=0.1, grad_scale=0.5)
    want = reference.lion(*(a.astype(np.float64) for a in (p, 0.5 * g, m)), 3e-3, 0.9, 0.99, 0.1)
    for got, expected in zip((arrays[0], arrays[2]), want, strict=True):
        assert_close(got.numpy(), expected, "float32")


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("n", [1, 33, 40001])
def test_sgd(n, nesterov):
    p, g, m = f32(n, 0), f32(n, 1), f32(n, 2)
    arrays = [array(a) for a in (p, g, m)]
    _core.sgd(*arrays, lr=0.03, momentum=0.9, nesterov=nesterov, weight_decay=0.1, grad_scale=0.5)
    want = reference.sgd(*(a.astype(np.float64) for a in (p, 0.5 * g, m)), 0.03, 0.9, nesterov, 0.1)
    for got, expected in zip((arrays[0], arrays[2]), want, strict=True):
        assert_close(got.numpy(), expected, "float32")


def test_sgd_without_momentum_keeps_nothing():
    p, g = f32((9, 7), 0), f32((9, 7), 1)
    given = array(p)
    _core.sgd(given, array(g), None, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, grad_scale=1.0)
    assert_close(given.numpy(), p.astype(np.float64) - 0.1 * g, "float32")
    assert optim.SGD([("p", nn.Parameter(p))], momentum=0.0).state_dict() == {}


@pytest.mark.parametrize("shape", SIZES)
def test_orthogonalised(shape):
    x = f32(shape, 3, 1e-3)
    got = orthogonalised(array(x)).numpy()
    assert_close(got, reference.newton_schulz(x.astype(np.float64)), "float32", factor=30)
    values = np.linalg.svd(got, compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.3
    # In bfloat16 it is another matrix of the same kind.
    low = orthogonalised(array(x), "bfloat16").numpy()
    assert np.linalg.norm(low - got) < 0.05 * np.linalg.norm(got)


def test_orthogonalised_of_nothing():
    assert not orthogonalised(array(np.zeros((4, 6)))).numpy().any()


MAKERS = {
    "adamw": (lambda named: optim.AdamW(named, 0.01), "mv"),
    "lion": (lambda named: optim.Lion(named, 0.001), "m"),
    "sgd": (lambda named: optim.SGD(named, 0.1, nesterov=True, weight_decay=0.1), "m"),
    "muon": (lambda named: optim.Muon(named, 0.01), "m"),
}


def twin_step(kind, p, g, kept, step, parts):
    if kind == "adamw":
        return reference.adamw(p, g, *kept, 0.01, 0.9, 0.95, 1e-8, 0.1, step)
    if kind == "lion":
        return reference.lion(p, g, *kept, 0.001, 0.9, 0.99, 1.0)
    if kind == "sgd":
        return reference.sgd(p, g, *kept, 0.1, 0.9, True, 0.1)
    return reference.muon(p, g, *kept, 0.01, 0.95, 0.1, parts)


@pytest.mark.parametrize("kind", MAKERS)
def test_ten_steps_follow_the_twin(kind):
    """Of a matrix that is three in one, whose panels are in use."""
    parts = (24, 8, 8)
    p = nn.Parameter(f32((40, 24), 0))
    p.parts = parts
    make, letters = MAKERS[kind]
    optimizer = make([("blocks.0.w", p)])
    rng = np.random.default_rng(1)
    twin = (np.array(p.numpy(), np.float64), *(np.zeros((40, 24)) for _ in letters))
    for step in range(1, 11):
        p.panels(DType.float32, True)
        g = rng.standard_normal((40, 24)).astype(np.float32)
        p.zero_grad()
        p.accumulate_grad(array(g))
        optimizer.step()
        twin = twin_step(kind, twin[0], g.astype(np.float64), twin[1:], step, parts)
    assert_close(p.numpy(), twin[0], "float32", factor=30 if kind == "muon" else 1)
    np.testing.assert_array_equal(
        p.panels(DType.float32, True).data.numpy(), _core.pack(p.array, DType.float32, True).data.numpy()
    )
    # What is kept can be taken over.
    other = make([("blocks.0.w", nn.Parameter(p.numpy()))])
    other.load_state_dict({k: np.array(v) for k, v in optimizer.state_dict().items()}, optimizer.steps)
    assert other.steps == 10
    with pytest.raises(ValueError, match=r"\[optimizer\] expected m.blocks.0.w of shape \(40, 24\), got None"):
        other.load_state_dict({}, 1)


def test_muon_takes_block_matrices_only():
    named = {
        "tokens.weight": (12, 8),
        "blocks.0.norm.weight": (8,),
        "blocks.0.mlp.weight": (16, 8),
        "head.weight": (12, 8),
    }
    optimizer = optim.Muon([(name, nn.Parameter(f32(shape, 0))) for name, shape in named.items()])
    kept = set(optimizer.state_dict())
    assert kept == {f"m.{name}" for name in named} | {f"v.{name}" for name in named if name != "blocks.0.mlp.weight"}


@pytest.mark.parametrize("kind", MAKERS)
def test_threads_do_not_change_bits(kind):
    def compute():
        p = nn.Parameter(f32((120, 72), 0))
        optimizer = MAKERS[kind][0]([("blocks.0.w", p)])
        for seed in (1, 2):
            p.zero_grad()
            p.accumulate_grad(array(f32((120, 72), seed)))
            optimizer.step()
        return [p.numpy(), *optimizer.state_dict().values()]

    assert_same_bits(compute)


def test_bad_input():
    p, g = array(f32(4, 0)), array(f32(4, 1))
    with pytest.raises(ValueError, match=r"\[lion\] expected betas in \[0, 1\), got"):
        _core.lion(p, g, array(f32(4, 2)), 0.1, 1.0, 0.9, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[lion\] expected m \(4,\), got \(3,\)"):
        _core.lion(p, g, array(f32(3, 2)), 0.1, 0.9, 0.9, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[sgd\] expected grad \(4,\), got \(5,\)"):
        _core.sgd(p, array(f32(5, 2)), None, 0.1, 0.0, False, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[momentum\] expected grad \(4,\), got \(5,\)"):
        _core.momentum(array(f32(5, 2)), p, 0.9, True, 1.0)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_ten_steps_are_those_of_torch(kind):
    torch = pytest.importorskip("torch")
    start = f32((40, 24), 0)
    mine, theirs = nn.Parameter(start), torch.nn.Parameter(torch.from_numpy(start.copy()))
    named = [("blocks.0.w", mine)]
    if kind == "adamw":
        ours = optim.AdamW(named, 0.01, (0.9, 0.95), 1e-8, 0.1)
        other = torch.optim.AdamW([theirs], 0.01, (0.9, 0.95), 1e-8, 0.1)
    elif kind == "sgd":
        ours = optim.SGD(named, 0.01, 0.9, nesterov=True)
        other = torch.optim.SGD([theirs], 0.01, 0.9, nesterov=True)
    else:
        ours = optim.Muon(named, 0.01, 0.95, weight_decay=0.1)
        other = torch.optim.Muon([theirs], 0.01, 0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for seed in range(10):
        g = f32((40, 24), seed + 5)
        mine.zero_grad()
        mine.accumulate_grad(array(g))
        theirs.grad = torch.from_numpy(g)
        ours.step()
        other.step()
    difference = np.abs(mine.numpy() - theirs.detach().numpy()).max()
    # torch's Muon multiplies in bfloat16.
    assert difference < (2e-2 if kind == "muon" else 1e-5)


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_orthogonalised_of_any_size(size):
    """A gradient may be as small as a loss of nothing makes it."""
    x = f32((24, 40), 3)
    got = orthogonalised(array(x.astype(np.float64) * size)).numpy()
    assert_close(got, orthogonalised(array(x)).numpy(), "float32", factor=3000 if size < 1e-36 else 10)

"""Products with weights that stay quantized, for every block type, and lookups of their rows."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, nn, ops
from llmcore._arrays import array_to_numpy
from llmcore._tensor import Tensor
from llmcore.formats.gguf import TYPES, GGUFTensor
from llmcore.formats.quantization import dequantize, encode
from llmcore.models.weights import Encoded, Piece, Stored
from llmcore.ops.deferred import Deferred
from reference import quantized as reference
from support.gradcheck import random
from support.quantized import random_tensor
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
KINDS = {t.name: t for t in TYPES.values() if t.elements > 1}


def blocks_of(kind, rows, width, seed=0):
    """Random bytes, with scales that are ordinary numbers."""
    t = KINDS[kind]
    rng = np.random.default_rng(seed)
    if kind in ("Q8_0", "Q4_0", "Q4_1"):
        return encode(rng.standard_normal((rows, width)).astype(np.float32), kind)
    data = rng.integers(0, 256, (rows, width // t.elements, t.bytes), np.uint8)
    at = {"Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
    for place in at[kind]:
        halves = rng.uniform(-0.02, 0.02, data.shape[:2]).astype("<f2")
        data[..., place : place + 2] = np.ascontiguousarray(halves[..., None]).view(np.uint8)
    return data.reshape(rows, -1)


def weight(*parts, width) -> nn.QuantizedWeight:
    """Of (kind, rows) one below the other."""
    pieces = []
    for i, (kind, rows) in enumerate(parts):
        blocks = blocks_of(kind, rows, width, seed=i)
        stored = GGUFTensor("w", (rows, width), KINDS[kind], blocks.reshape(-1))
        pieces.append(Piece(rows, lambda t=stored: dequantize(t), kind, lambda b=blocks: b))
    source = Stored(pieces, (sum(rows for _, rows in parts), width))
    return nn.QuantizedWeight(source, lambda: [(p.type, p.blocks()) for p in pieces])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type(kind, dtype):
    w = weight((kind, 37), width=512)
    x, bias, residual = random((3, 5, 512), dtype), random((37,), seed=1), random((3, 5, 37), dtype, 2)
    out = ops.linear(llmcore.tensor(x, dtype), w, bias.astype(np.float32), llmcore.tensor(residual, dtype)).numpy()
    assert_close(out, reference.quantized_linear(x, w.stored()) + bias + residual, dtype)
    got = ops.linear(llmcore.tensor(x, dtype), w, out_dtype="float32").numpy()
    assert_close(got, reference.quantized_linear(x, w.stored()), "float32")


@pytest.mark.parametrize("kind", KINDS)
def test_repacked_without_loss(kind):
    """Rows that are looked up are what the file says, bit for bit."""
    w = weight((kind, 21), width=512)
    ids = np.random.default_rng(0).integers(0, 21, (4, 9))
    np.testing.assert_array_equal(ops.embedding(ids, w).numpy(), w.stored()[ids])
    rounded = ops.embedding(ids, w, "bfloat16").numpy()
    np.testing.assert_array_equal(rounded, w.stored()[ids].astype(rounded.dtype))
    size = sum(len(p.blocks().reshape(-1)) for p in w.source.pieces) * 32 / 21  # whole strips of 16 rows
    if kind in ("Q8_0", "Q4_0", "Q4_1"):
        assert w.nbytes == size


@pytest.mark.parametrize(
    ("M", "N", "K"), [(1, 1, 32), (1, 16, 64), (2, 17, 96), (3, 5, 32), (7, 40, 160), (19, 33, 64), (0, 4, 32)]
)
def test_shapes(M, N, K):
    for kind in ("Q8_0", "Q4_0", "Q4_1"):
        w, x = weight((kind, N), width=K), random((M, K))
        out = ops.linear(x.astype(np.float32), w).numpy()
        assert out.shape == (M, N)
        assert_close(out, reference.quantized_linear(x, w.stored()), "float32")


def test_parts_of_several_types():
    w = weight(("Q4_K", 32), ("Q6_K", 16), ("Q8_0", 9), width=256)
    x = random((4, 256))
    assert_close(ops.linear(x.astype(np.float32), w).numpy(), reference.quantized_linear(x, w.stored()), "float32")


@pytest.mark.parametrize("activation", ["gelu", "gelu_exact", "swiglu", "geglu"])
def test_activations_and_gradients(activation):
    w = weight(("Q8_0", 34), width=64)
    plain = nn.Parameter(w.stored())
    x, bias = random((5, 64)), random((34,), seed=1)
    width = 17 if activation.endswith("glu") else 34
    residual, dout = random((5, width), seed=2), random((5, width), seed=3)
    results = []
    for matrix, arrays in ((w, (x, bias, residual)), (plain, (reference.rounded(x), bias, residual))):
        t = [llmcore.tensor(a.astype(np.float32), requires_grad=True) for a in arrays]
        out = ops.linear(t[0], matrix, t[1], residual=t[2], activation=activation)
        out.backward(dout.astype(np.float32))
        results.append([out.numpy()] + [array_to_numpy(a.grad) for a in t])
        with llmcore.no_grad():
            np.testing.assert_array_equal(
                ops.linear(t[0], matrix, t[1], residual=t[2], activation=activation).numpy(), out.numpy()
            )
    for got, want in zip(*results, strict=True):
        assert_close(got, want, "float32", factor=2)
    assert w.grad is None


def norm_of(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def gated_of(x, activation):
    gate, up = np.split(x, 2, axis=-1)
    if activation == "swiglu":
        return gate / (1 + np.exp(-gate)) * up
    return 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [1, 3, 40])
@pytest.mark.parametrize("source", ["rms_norm", "swiglu", "geglu"])
def test_what_is_rounded_in_passing(source, M, dtype):
    """A norm, or gates, that never lie in memory: near their float64 twin, in float32 the bits of the two kernels, for any
    number of threads."""
    w = weight(("Q4_1", 37), width=96)
    x = llmcore.tensor(random((M, 96 if source == "rms_norm" else 192), dtype), dtype)
    norm = llmcore.tensor(random((96,), seed=1).astype(np.float32) + 1)
    if source == "rms_norm":
        deferred, made = ops.rms_norm(x, norm, 1e-5, deferred=True), ops.rms_norm(x, norm, 1e-5)
        twin = norm_of(x.numpy().astype(np.float64), norm.numpy().astype(np.float64), 1e-5)
    else:
        pre = x.array
        kind, how = ops.elementwise.ACTIVATIONS[source], getattr(_core.ActivationSource, source)
        deferred = Deferred(pre, (M, 96), lambda: _core.activate(kind, pre), how)
        made, twin = Tensor(_core.activate(kind, pre)), gated_of(x.numpy().astype(np.float64), source)
    assert deferred.shape == made.shape
    assert deferred.dtype == made.dtype == dtype
    assert_same_bits(lambda: [ops.linear(deferred, w).numpy()])
    fused = ops.linear(deferred, w).numpy()
    assert not deferred.made
    # A number in the middle between two steps of 8 bits may fall to either side.
    assert_close(fused, reference.quantized_linear(twin, w.stored()), "bfloat16")
    if dtype == "float32":
        np.testing.assert_array_equal(fused, ops.linear(made, w).numpy())
    np.testing.assert_array_equal(deferred.numpy(), made.numpy())  # whoever asks gets it
    assert deferred.made


def test_gates_of_quantized_layers_are_made_in_passing():
    gate_up, down = weight(("Q8_0", 192), width=64), weight(("Q4_1", 64), width=96)
    x = llmcore.tensor(random((5, 64)).astype(np.float32))
    hidden = ops.linear(x, gate_up, activation="swiglu")
    assert isinstance(hidden, Deferred)
    out = ops.linear(hidden, down).numpy()
    assert not hidden.made
    plain = ops.swiglu(ops.linear(x, gate_up))
    np.testing.assert_array_equal(out, ops.linear(plain, down).numpy())
    np.testing.assert_array_equal(hidden.numpy(), plain.numpy())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
def test_a_row_never_depends_on_others(kind):
    w, x = weight((kind, 70), width=256), random((21, 256)).astype(np.float32)
    together = ops.linear(x, w).numpy()
    for rows in (slice(0, 1), slice(3, 5), slice(4, 7), slice(10, 21)):
        np.testing.assert_array_equal(ops.linear(x[rows], w).numpy(), together[rows])
    assert_same_bits(lambda: [ops.linear(x, w).numpy()])


def test_hostile_numbers_do_no_harm():
    w = weight(("Q8_0", 16), width=32)
    for bad in (np.nan, np.inf, -np.inf, 1e38, 1e-45):
        x = np.zeros((2, 32), np.float32)
        x[0, 3] = bad
        out = ops.linear(x, w).numpy()
        assert np.isfinite(out[1]).all()
        assert np.isfinite(out[0]).all() == np.isfinite(bad)
    noise = random_tensor("Q6_K", rows=16, width=256)
    matrix = _core.QuantizedMatrix([("Q6_K", _core.from_numpy(noise.data.reshape(16, -1)))], 256)
    assert matrix.shape == (16, 256)


def test_bad_input_is_named():
    w = weight(("Q8_0", 4), width=64)
    with pytest.raises(ValueError, match=r"\[quantized_linear\] expected x \(..., 64\), got \(2, 32\)"):
        ops.linear(np.zeros((2, 32), np.float32), w)
    one = _core.ActivationSource
    for source, more, message in (
        (one.swiglu, (), r"expected x \(..., 128\), got \(2, 64\)"),
        (one.rms_norm, (), "expected norm_weight for an RMS norm, got none"),
        (one.rms_norm, (llmcore.tensor(np.ones(32, np.float32)).array, 1e-5), r"expected norm_weight \(64,\), got"),
    ):
        x = llmcore.tensor(np.zeros((2, 64), np.float32)).array
        none = _core.Activation.none
        with pytest.raises(ValueError, match=rf"\[quantized_linear\] {message}"):
            _core.quantized_linear(x, w.quantized, None, None, none, _core.DType.float32, source, *more)
    with pytest.raises(ValueError, match=r"\[quantized_rows\] expected ids in \[0, 4\), got 4"):
        ops.embedding(np.array([4]), w)
    with pytest.raises(ValueError, match="expected a weight that is not quantized"):
        w.assign(np.zeros((4, 64), np.float32))
    blocks = _core.from_numpy(np.zeros((2, 34), np.uint8))
    for parts, K, message in [
        ([("Q9_0", blocks)], 32, "a block type of GGUF"),
        ([("Q8_0", blocks)], 33, "a row length that is a multiple of 32"),
        ([("Q8_0", blocks)], 64, r"blocks \(rows, 68\), got \(2, 34\)"),
        ([("Q4_K", blocks)], 32, "a row length that is a multiple of 256"),
    ]:
        with pytest.raises(ValueError, match=rf"\[quantized_matrix\] expected .*{message}"):
            _core.QuantizedMatrix(parts, K)


def test_quantized_on_loading():
    x = random((6, 96)).astype(np.float32)
    for kind in ("Q8_0", "Q4_1"):
        blocks = encode(x, kind)
        source = Encoded(blocks, kind, x.shape)
        w = nn.QuantizedWeight(source, lambda b=blocks, k=kind: [(k, b)])
        np.testing.assert_array_equal(ops.embedding(np.arange(6), w).numpy(), source.values())
        assert np.abs(source.values() - x).max() < 0.2

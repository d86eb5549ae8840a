"""How the GPU's benchmarks time a row: llmcore and torch in one process, in turns, their results compared first.

Kernels run asynchronously, so a turn is as many calls as take `SLICE`, and the device is waited for before and
after them. A call has a number, by which a side takes one of several copies of its inputs: together these are larger than
the L2 cache, so that none finds there what its last call left.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import llmcore
from llmcore import _core
from support.tolerances import tolerance

SLICE = 0.03  # seconds of a turn at least


@dataclass
class Where:
    """Devices of the two sides; tiny: small shapes, compared and not timed."""

    device: str = "cuda"
    torch_device: str = "cuda"
    tiny: bool = False
    seconds: float = 1.0  # spent on a row
    # Measured: bytes per second of a copy (read and written), operations per second of a product in bfloat16.
    bandwidth: float = 0.0
    peak: float = 0.0


where = Where()


@dataclass
class Row:
    """sides: library -> call(number) -> what is compared, llmcore's first. flops and traffic (bytes that must move) give the
    floor. asked: times the speed of asked_of, by default the first peer's; share: of the floor's. clocked: a call
    returns its seconds itself, and has a `check` of its own. units: what the seconds are divided by."""

    sides: dict[str, Callable[[int], Any]]
    dtype: str = "bfloat16"
    flops: float = 0
    traffic: float = 0
    asked: float | None = None
    asked_of: str | None = None
    share: float | None = None
    factor: float = 2.0  # both sides have the dtype's rounding errors
    check: Callable[[Row], float] | None = None  # instead of comparing: asserts, and returns the largest difference
    clocked: bool = False
    units: int = 1
    notes: dict = field(default_factory=dict)

    def of(self, side: str, call: Callable, *args) -> Any:
        """call(*args). A peer that raises leaves the row, which says so and goes on: None."""
        try:
            return call(*args)
        except Exception as error:
            if side == "llmcore":
                raise
            del self.sides[side]
            self.without(side, error)
            return None

    def without(self, side: str, why: object) -> None:
        said = f"{side}: {(str(why).strip().splitlines() or [type(why).__name__])[0]:.200}"
        self.notes["without"] = "; ".join(filter(None, [self.notes.get("without"), said]))


def synchronize() -> None:
    _core.synchronize()
    if where.torch_device == "cuda":
        torch.cuda.synchronize()


def normal(*shape: int, dtype: str = "bfloat16", seed: int = 0) -> torch.Tensor:
    """Standard normal values."""
    generator = torch.Generator(where.torch_device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=where.torch_device).to(getattr(torch, dtype))


def as_llmcore(x: torch.Tensor, grad: bool = False) -> llmcore.Tensor:
    """The same memory where both sides are on the GPU, else a copy."""
    synchronize()  # the two libraries have streams of their own
    x = x.detach().contiguous()
    array = _core.from_dlpack(x.__dlpack__()).to(where.device)
    return llmcore.Tensor(array, grad)


def as_torch(x) -> torch.Tensor:
    """The reverse, of a tensor or an array."""
    if isinstance(x, torch.Tensor):
        return x.detach()
    tensor = x if isinstance(x, llmcore.Tensor) else llmcore.Tensor(x)
    synchronize()
    if tensor.device != where.torch_device:
        tensor = llmcore.Tensor(tensor.array.to(where.torch_device))
    return torch.utils.dlpack.from_dlpack(tensor.__dlpack__())


def copies(bytes_of_one: float) -> int:
    """How many sets of inputs are larger than the L2 cache, three times."""
    if where.torch_device != "cuda":
        return 2
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(64, round(3 * cache / bytes_of_one + 0.5)))


def difference(got, wanted, dtype: str, factor: float) -> float:
    """The largest, relative to the largest value; AssertionError where it is more than `factor` of the dtype's
    tolerance, where shapes differ or a value is NaN or infinite."""
    got, wanted = as_torch(got), as_torch(wanted)
    assert got.shape == wanted.shape, f"shapes {tuple(got.shape)} and {tuple(wanted.shape)}"
    apart, largest = 0.0, 1e-30
    for a, b in zip(_pieces(got), _pieces(wanted), strict=True):
        assert torch.isfinite(a).all(), "llmcore's result is not finite"
        assert torch.isfinite(b).all(), "the peer's result is not finite"
        apart, largest = max(apart, (a - b).abs().max().item()), max(largest, b.abs().max().item())
    assert apart <= factor * tolerance(dtype) * largest, (
        f"results are {apart / largest:.2g} apart, at most {factor * tolerance(dtype):.2g} is allowed"
    )
    return apart / largest


def _pieces(x: torch.Tensor):
    """float32, a part at a time."""
    return (part.float() for part in x.reshape(-1).split(1 << 26)) if x.numel() else iter(())


def compared(row: Row) -> float:
    """The largest difference of any side to llmcore's."""
    if row.check is not None:
        return row.check(row)
    (_, ours), *others = row.sides.items()
    got, worst = ours(0), 0.0
    for name, other in others:
        theirs = row.of(name, other, 0)
        if theirs is not None:
            worst = max(worst, *(difference(a, b, row.dtype, row.factor) for a, b in zip(got, theirs, strict=True)))
    return worst


def measured(row: Row) -> dict:
    """Check the sides, then time them in turns: medians in seconds of each, and the median over the turns of the peer's
    time to llmcore's."""
    asked_of = row.asked_of or next((name for name in row.sides if name != "llmcore"), None)
    found = {"dtype": row.dtype, "flops": row.flops, "traffic": row.traffic, "asked": row.asked, "asked_of": asked_of,
             "asked_share": row.share, "difference": compared(row)}  # fmt: skip
    if where.tiny:
        return found | row.notes
    repeats = {name: 1 if row.clocked else row.of(name, _repeats, side) for name, side in list(row.sides.items())}
    times: dict[str, list[float]] = {name: [] for name in row.sides}
    began, number = time.perf_counter(), 0
    gc.collect()
    gc.disable()
    try:
        while len(times["llmcore"]) < 3 or (
            time.perf_counter() - began < where.seconds and len(times["llmcore"]) < 100
        ):
            for name, side in list(row.sides.items()):
                times[name].append(row.of(name, _turn, row, side, repeats[name], number))
                number += repeats[name] + 1
    finally:
        gc.enable()
    times = {name: times[name] for name in row.sides}
    seconds = {name: statistics.median(t) for name, t in times.items()}
    peer = next((name for name in row.sides if name != "llmcore"), None)
    ratio = peer and statistics.median(b / a for a, b in zip(times["llmcore"], times[peer], strict=True))
    return (
        found
        | row.notes
        | {"seconds": seconds, "peer": peer, "ratio": ratio, "rounds": len(times["llmcore"])}
        | _floor(row, seconds)
    )


def _turn(row: Row, side: Callable, repeats: int, number: int) -> float:
    first = side(number)  # untimed where it is not clocked: the other library has had the caches
    return (first if row.clocked else _seconds(side, repeats, number + 1)) / row.units


def _floor(row: Row, seconds: Mapping[str, float]) -> dict:
    """The least time that the measured peaks allow, what makes it, and how much of llmcore's time it is."""
    if not (where.bandwidth and where.peak and (row.flops or row.traffic)):
        return {}
    by_flops, by_traffic = row.flops / where.peak, row.traffic / where.bandwidth
    floor = max(by_flops, by_traffic) / row.units
    return {"floor": floor, "bound": "flops" if by_flops > by_traffic else "bytes", "share": floor / seconds["llmcore"]}


def _repeats(side: Callable) -> int:
    side(0)
    if _seconds(side, 1, 1) > SLICE:
        return 1
    return max(1, round(SLICE / min(_seconds(side, 3, 2), _seconds(side, 3, 5))))


def _seconds(side: Callable, repeats: int, first: int) -> float:
    synchronize()
    began = time.perf_counter()
    for number in range(first, first + repeats):
        side(number)
    synchronize()
    return (time.perf_counter() - began) / repeats


def release() -> None:
    """Give all memory that no tensor has back to the device."""
    gc.collect()
    synchronize()
    _core.release_cached_memory()
    if where.torch_device == "cuda":
        torch.cuda.empty_cache()

"""The keys and values of prompts in a file, so that another process need not compute them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llmcore import _core, autograd
from llmcore._arrays import array_to_numpy, to_host_array
from llmcore.errors import Error
from llmcore.formats import safetensors
from llmcore.generate.engine.engine import Engine
from llmcore.models import CausalLM
from llmcore.models.kv_cache import BLOCK, BlockPool, LayerCache

_FORMAT = "llmcore prompt cache 1"
_PROBE = 32  # tokens whose hidden states tell models apart
_Piece = tuple[Sequence[int], int, int]  # the tokens of a block, the block, and the index of the piece before it, or -1


def save(engine: Engine, path: str | os.PathLike, tokens: Sequence[int] | None = None) -> int:
    """Write what the engine has cached of a prompt, or all that it has cached; returns how many tokens that is. A failure
    leaves the file that was there before."""
    with engine.entered():
        engine.notice_new_weights()
        pieces = _all(engine) if tokens is None else _beginning(engine, tokens)
        ids = np.array([t for piece in pieces for t in piece[0]], np.int32)
        tensors = {
            "tokens": ids,
            "lengths": np.array([len(piece[0]) for piece in pieces], np.int32),
            "parents": np.array([piece[2] for piece in pieces], np.int32),
        }
        for name, array in _arrays(engine.pool):
            parts = [array_to_numpy(array.narrow(0, b, 1).narrow(1, 0, len(t)).contiguous())[0] for t, b, _ in pieces]
            tensors[name] = np.concatenate([array_to_numpy(array.narrow(0, 0, 1))[0, :0], *parts])
        metadata = {"format": _FORMAT, "model": _digest_of_model(engine, ids), "data": _digest(tensors)}
    safetensors.save_file(tensors, path, metadata)
    return len(ids)


def load(engine: Engine, path: str | os.PathLike) -> int:
    """Add the prompts of a file to what the engine has cached; returns how many tokens the file holds. ValueError names a file
    that is damaged, that another model made, or for which there is no room."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
        raise Error("prompt cache", path, expected="a file that save_cache wrote", got="something that is no file")
    tensors, metadata = safetensors.load_file(path)
    if metadata.get("format") != _FORMAT:
        raise Error("prompt cache", path, expected="a file that save_cache wrote", got="another")
    _check_arrays(path, engine.pool, tensors)
    if metadata.get("data") != _digest(tensors):
        raise Error("prompt cache", path, expected="what its digest says: remove it", got="a damaged file")
    pieces = _checked_pieces(path, engine.model, tensors)
    with engine.entered():
        engine.notice_new_weights()
        if metadata.get("model") != _digest_of_model(engine, tensors["tokens"]):
            expected = "what this model computes, with these options and on this processor: remove it"
            raise Error("prompt cache", path, expected=expected, got="another model's")
        engine.prefixes.evict(len(pieces) - engine.pool.free)
        if len(pieces) > engine.pool.free:
            expected = f"at most {engine.pool.free * BLOCK} tokens (what the engine's cache_bytes has room for)"
            raise Error("prompt cache", path, expected=expected, got=len(tensors["tokens"]))
        _add(engine, pieces, tensors)
    return len(tensors["tokens"])


def _all(engine: Engine) -> list[_Piece]:
    found: list[_Piece] = []
    numbers: dict[int, int] = {}
    for node in engine.prefixes.nodes():
        parent = numbers.get(id(node.parent), -1)
        numbers[id(node)] = len(found)
        found.append((node.tokens, node.block, parent))
    return found


def _beginning(engine: Engine, tokens: Sequence[int]) -> list[_Piece]:
    key = [~i for i in tokens] if engine.model.shift(len(tokens)) else list(tokens)
    blocks, more = engine.prefixes.find(key)
    found: list[_Piece] = [(key[BLOCK * i : BLOCK * (i + 1)], b, i - 1) for i, b in enumerate(blocks)]
    if more is not None:
        start = BLOCK * len(blocks)
        found.append((key[start : start + more[1]], more[0], len(blocks) - 1))
    return found


def _arrays(pool: BlockPool) -> list[tuple[str, _core.Array]]:
    return [(f"layers.{i}.{name}", a) for i, layer in enumerate(pool.layers) for name, a in _named(layer)]


def _named(layer: LayerCache) -> list[tuple[str, _core.Array]]:
    scales = [("key_scale", layer.key_scale), ("value_scale", layer.value_scale)]
    return [("keys", layer.keys), ("values", layer.values), *((n, a) for n, a in scales if a is not None)]


def _check_arrays(path: Path, pool: BlockPool, tensors: Mapping[str, np.ndarray]) -> None:
    count, pieces = (tensors[name].size if name in tensors else 0 for name in ("tokens", "lengths"))
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        name: ((count, *array.shape[2:]), array.dtype.name) for name, array in _arrays(pool)
    }
    expected |= {"tokens": ((count,), "int32"), "lengths": ((pieces,), "int32"), "parents": ((pieces,), "int32")}
    for name in sorted(expected.keys() ^ tensors.keys()):
        said = "with" if name in expected else "without"
        raise Error("prompt cache", path, expected=f"this model's, {said} {name!r:.100}: remove it", got="another")
    for name, (shape, dtype) in expected.items():
        found = tensors[name]
        if (found.shape, found.dtype.name) != (shape, dtype):
            got = f"{found.dtype.name} {found.shape}"
            raise Error("prompt cache", f"{path}: {name}", expected=f"this model's {dtype} {shape}: remove it", got=got)


def _checked_pieces(path: Path, model: CausalLM, tensors: Mapping[str, np.ndarray]) -> list[tuple[int, int, int]]:
    """Return (start, length, parent) of each piece. ValueError for anything that no tree of prefixes has."""
    tokens, lengths, parents = tensors["tokens"], tensors["lengths"], tensors["parents"]
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    ok = bool(np.all((lengths >= 1) & (lengths <= BLOCK))) and int(lengths.sum(dtype=np.int64)) == len(tokens)
    ok = ok and bool(np.all(np.where(tokens < 0, ~tokens, tokens) < model.config.vocab_size))
    ends: list[int] = []  # how many tokens there are up to each piece's end
    for i, parent in enumerate(parents.tolist()):
        ok = (
            ok
            and -1 <= parent < i
            and (parent < 0 or (lengths[parent] == BLOCK and ends[parent] < model.config.context))
        )
        if not ok:
            break
        ends.append(int(lengths[i]) + (ends[parent] if parent >= 0 else 0))
    if not ok:
        raise Error("prompt cache", path, expected="tokens as prefixes of prompts: remove it", got="something else")
    return list(zip(starts.tolist(), lengths.tolist(), parents.tolist(), strict=True))


def _add(engine: Engine, pieces: Sequence[tuple[int, int, int]], tensors: Mapping[str, np.ndarray]) -> None:
    pool = engine.pool
    blocks = [pool.allocate() for _ in pieces]
    for name, array in _arrays(pool):
        stored = tensors[name]
        for block, (start, length, _) in zip(blocks, pieces, strict=True):
            part = to_host_array(stored[None, start : start + length])
            array.narrow(0, block, 1).narrow(1, 0, length).copy_from(part)
    for last in set(range(len(pieces))) - {parent for _, _, parent in pieces}:
        chain = [last]
        while pieces[chain[-1]][2] >= 0:
            chain.append(pieces[chain[-1]][2])
        chain.reverse()
        spans = [pieces[i] for i in chain]
        tokens = itertools.chain.from_iterable(tensors["tokens"][s : s + n].tolist() for s, n, _ in spans)
        engine.prefixes.add(list(tokens), [blocks[i] for i in chain])
    for block in blocks:
        pool.release(block)


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype.name} {tensors[name].shape}\n".encode())
        found.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _digest_of_model(engine: Engine, ids: np.ndarray) -> str:
    """Return what changes with anything that keys and values are computed from: the configuration, the type of the cache, the
    bits of the hidden states of tokens from all over the vocabulary, and the embeddings of the cached tokens. This costs a
    short prompt, where reading all weights of a large model would take longer than the prompt that is to be saved."""
    model = engine.model
    vocab, context = model.config.vocab_size, model.config.context
    probe = np.linspace(0, vocab - 1, min(_PROBE, context)).astype(np.int32)
    found = hashlib.blake2b(f"{type(model).__name__} {model.config!r} {engine.pool.dtype}\n".encode(), digest_size=16)
    cached = np.unique(np.where(ids < 0, ~ids, ids))[None].astype(np.int32)
    with autograd.no_grad():
        for computed in (model.hidden(probe[None]), model.tokens(cached) if cached.size else None):
            if computed is not None:
                found.update(np.ascontiguousarray(array_to_numpy(computed.array)).reshape(-1).view(np.uint8).data)
    return found.hexdigest()

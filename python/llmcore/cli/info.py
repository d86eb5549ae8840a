"""`llmcore info`: what a model is made of, and what this build can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcore.cli import options, show
from llmcore.cli.errors import UsageError

if TYPE_CHECKING:
    from llmcore.generate import LanguageModel

_BYTES = {"float32": 4, "bfloat16": 2}


def info(
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Model directory.")] = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show a model's architecture, parameters, memory and tokenizer, and what this build can do.

    Without any model, the build alone.

    \b
    Example: llmcore info demo-model
    """
    from llmcore.runtime import build_info

    if directory is not None and model is not None:
        raise UsageError("expected one model directory, got two")
    try:
        where = options.model_directory(directory or model)
    except UsageError:
        where = None
    build = build_info()
    described = None if where is None else describe(options.load_model(where), where)
    if json:
        options.print_json({"model": described, "build": build})
        return
    out = show.console()
    if described:
        _print_model(out, described)
        out.print()
    rows = [(name.replace("_", " "), _text(value)) for name, value in build.items()]
    show.print_pairs(out, rows, "this build")


def describe(lm: LanguageModel, where: Path) -> dict:
    """What `info` shows, as data."""
    parts: dict[str, int] = {}
    for name, parameter in lm.model.named_parameters():
        parts[_part(name)] = parts.get(_part(name), 0) + parameter.size
    tok, n = lm.tokenizer, lm.num_parameters
    return {
        "directory": str(where),
        "architecture": type(lm.model).__name__,
        "config": vars(lm.config),
        "parameters": n,
        "parameters_by_part": parts,
        "weight_bytes": {dtype: n * size for dtype, size in _BYTES.items()},
        "compute_dtype": lm.model.dtype,
        "tokenizer": {
            "vocab_size": tok.vocab_size,
            "pattern": tok.pattern,
            "special_tokens": tok.special_tokens,
        },
    }


def _part(name: str) -> str:
    """The part of a model that a parameter belongs to."""
    if name.startswith("blocks."):
        name = name.split(".", 2)[2]
        if "norm" in name:
            return "norms"
        return "attention" if name.startswith(("qkv", "attention")) else "feed-forward"
    first = name.split(".")[0]
    return {"tokens": "token embedding", "positions": "position embedding", "head": "output layer"}.get(first, "norms")


def _print_model(out, d: dict) -> None:
    sizes = {k: v for k, v in d["config"].items() if k in ("layers", "width", "heads", "kv_heads", "ffn", "head_size")}
    special = ", ".join(f"{token} ({i})" for token, i in d["tokenizer"]["special_tokens"].items()) or "none"
    rows = [
        ("architecture", f"{d['architecture']}: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in sizes.items())),
        ("context", f"{d['config']['context']} tokens"),
        ("parameters", f"{d['parameters']:,}"),
    ]
    rows += [(f"  {part}", f"{n:,} ({n / d['parameters']:.0%})") for part, n in d["parameters_by_part"].items()]
    rows += [
        ("memory", ", ".join(f"{n / 1e6:,.1f} MB in {dtype}" for dtype, n in d["weight_bytes"].items())),
        ("vocabulary", f"{d['config']['vocab_size']:,} tokens; the tokenizer's pattern is {d['tokenizer']['pattern']}"),
        ("special tokens", special),
    ]
    show.print_pairs(out, rows, d["directory"])


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

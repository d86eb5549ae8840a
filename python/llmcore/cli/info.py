"""`llmcore info`: what a model consists of, and what this build supports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.errors import UsageError

if TYPE_CHECKING:
    from llmcore.generate import LanguageModel

# Bytes per parameter; int8 and int4 have blocks of 32 with a scale, and int4 a minimum too.
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 34 / 32, "int4": 20 / 32}


def info(
    directory: options.ModelArgument = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show a model's architecture, parameters, memory and tokenizer, and what this build supports.

    Without a model, only the build is shown.

    \b
    Example: llmcore info smollm2-135m-instruct
    """
    from llmcore._device import DEVICES
    from llmcore.runtime import build_info
    from llmcore.train.runs import load

    given = options.named(directory, model)
    try:
        where = options.model_directory(given)
    except UsageError:
        where = None
    build = build_info()
    if where is not None:
        from llmcore import hub

        where = hub.resolve(where)
    # A model can be shown even if the device in LLMCORE_DEVICE is missing; build["device"] says so.
    device = build["device"] if build["device"] in DEVICES else "cpu"
    described = None if where is None else describe(load(where, device=device), where)
    if json:
        options.print_json({"model": described, "build": build})
        return
    out = terminal.console()
    if described:
        _print_model(out, described)
        out.print()
    rows = [(name.replace("_", " "), _text(value)) for name, value in build.items()]
    terminal.print_pairs(out, rows, "this build")


def describe(lm: LanguageModel, where: Path) -> dict:
    """Return what `info` shows, as data."""
    from llmcore.models import RopeScaling
    from llmcore.models.weights import stored_type

    parts: dict[str, int] = {}
    now: dict[str, int] = {}
    for name, parameter in lm.model.named_parameters():
        parts[_part(name)] = parts.get(_part(name), 0) + parameter.size
        kind = stored_type(parameter.source)
        now[kind] = now.get(kind, 0) + parameter.size
    tok, n, template = lm.tokenizer, lm.num_parameters, lm.chat_template
    files = [where] if where.is_file() else sorted(f for f in where.iterdir() if f.is_file())
    return {
        "directory": str(where),
        "file_bytes": {f.name: f.stat().st_size for f in files},
        "architecture": type(lm.model).__name__,
        "adapter": {"base": str(lm.source), "runs": list(lm.model.runs)} if lm.model.runs else None,
        "config": {k: vars(v) if isinstance(v, RopeScaling) else v for k, v in vars(lm.config).items()},
        "positions": _positions(lm),
        "tied": lm.model.head is None,
        "parameters": n,
        "parameters_by_part": parts,
        "parameters_by_type": now,
        "weight_bytes": {dtype: int(n * size) for dtype, size in _BYTES.items()},
        "compute_dtype": lm.model.dtype,
        "tokenizer": {
            "vocab_size": tok.vocab_size,
            "pattern": tok.pattern,
            "special_tokens": tok.special_tokens,
            "begin": list(tok.begin),
            "end": list(tok.end),
        },
        "end_ids": list(lm.end_ids),
        "end_tokens": [lm.token_text(i) for i in lm.end_ids],
        "notes": list(lm.notes),
        "chat_template": None
        if template is None
        else {
            "characters": len(template.source),
            "uses": _uses(template.source),
            "templates": template.variables(),
        },
    }


def _positions(lm: LanguageModel) -> str:
    """Return how the model knows where a token is."""
    scaling = getattr(lm.config, "rope_scaling", None)
    base = getattr(lm.config, "rope_base", None)
    if base is None:
        return "learned"
    return f"rotations of base {base:g}" if scaling is None else f"rotations of base {base:g}, {scaling.describe()}"


def _uses(template: str) -> list[str]:
    """Return the optional features that a chat template supports."""
    names = {"system": "'system'", "tools": "tools", "thinking": "enable_thinking", "dates": "strftime_now"}
    return [name for name, word in names.items() if word in template.replace('"', "'")]


def _part(name: str) -> str:
    """Return the part of a model that a parameter belongs to."""
    if ".lora." in name:
        return "adapters"
    if name.startswith("blocks."):
        name = name.split(".", 2)[2]
        if "norm" in name:
            return "norms"
        return "attention" if name.startswith("attention") else "feed-forward"
    first = name.split(".")[0]
    return {"tokens": "token embedding", "positions": "position embedding", "head": "output layer"}.get(first, "norms")


def _print_model(out, d: dict) -> None:
    hidden = ("vocab_size", "context", "eps", "sliding", "rotary_layers", "rope_base", "rope_scaling", "tied")
    sizes = {k: v for k, v in d["config"].items() if k not in hidden and v is not None}
    tok, special = d["tokenizer"], d["tokenizer"]["special_tokens"]
    shown = ", ".join(f"{token} ({i})" for token, i in list(special.items())[:12]) or "none"
    if len(special) > 12:
        shown += f" and {len(special) - 12} more"
    names = {i: token for token, i in special.items()}
    around = [f"{side} a text {', '.join(names.get(i, str(i)) for i in tok[key])}"
              for side, key in (("before", "begin"), ("after", "end")) if tok[key]]  # fmt: skip
    template, adapter = d["chat_template"], d["adapter"]
    rows = [
        ("architecture", f"{d['architecture']}: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in sizes.items())),
        *([("adapter", f"{'; then '.join(adapter['runs'])}; of {adapter['base']}")] if adapter else []),
        ("context", f"{d['config']['context']} tokens"),
        ("positions", d["positions"]),
        ("output layer", "the token embedding" if d["tied"] else "its own matrix"),
        ("parameters", f"{d['parameters']:,}"),
    ]
    rows += [(f"  {part}", f"{n:,} ({n / d['parameters']:.0%})") for part, n in d["parameters_by_part"].items()]
    rows += [
        ("stored as", ", ".join(f"{n / d['parameters']:.0%} {kind}" for kind, n in d["parameters_by_type"].items())),
        ("files", f"{sum(d['file_bytes'].values()) / 1e6:,.1f} MB in {len(d['file_bytes'])}"),
        ("memory", ", ".join(f"{n / 1e6:,.1f} MB in {dtype}" for dtype, n in d["weight_bytes"].items())),
        ("computes in", d["compute_dtype"]),
        ("vocabulary", f"{d['config']['vocab_size']:,} tokens; the tokenizer's pattern is {tok['pattern']}"),
        ("special tokens", "; ".join([shown, *around])),
        ("ends with", ", ".join(f"{text} ({i})" for i, text in zip(d["end_ids"], d["end_tokens"], strict=True))
         or "no token"),
        ("chat template", f"{template['characters']:,} characters; supports {', '.join(template['uses']) or 'messages only'}"
         if template else "none"),
    ]  # fmt: skip
    for name, variables in (template["templates"] if template else {}).items():
        reads = ", ".join(variables)
        if reads or len(template["templates"]) > 1:
            rows.append((f"  {name}", f"reads {reads}" if reads else "reads messages only"))
    rows += [("note", note) for note in d["notes"]]
    terminal.print_pairs(out, rows, d["directory"])


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

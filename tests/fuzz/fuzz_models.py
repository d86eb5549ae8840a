"""Fuzzes what reads models: files are a LanguageModel that runs or a ValueError that names one of them. See README.md.

    python tests/fuzz/fuzz_models.py {gguf,part,safetensors,config,index} [--replay] CORPUS [libFuzzer's options]

An input is the file, or, if it begins with a zero, edits of a good one; the other files of the model are good ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fuzz_files import Edits, edit_bytes, edit_json

FILES = {"safetensors": "model.safetensors", "config": "config.json", "index": "model.safetensors.index.json"}


def good_model(kind: str, folder: Path) -> Path:
    """A small model on disk; the path of the file that is fuzzed."""
    import numpy as np

    import llmcore
    from llmcore import models
    from llmcore.formats import safetensors
    from llmcore.generate import LanguageModel

    tokenizer = llmcore.Tokenizer.train(iter(["ab abc 12345"]), 262, pattern="gpt2")
    c = models.Qwen3Config(tokenizer.vocab_size, 16, 32, 1, 2, kv_heads=1, ffn=32, head_size=16, tied=False)
    lm = LanguageModel(models.Qwen3(c, seed=0), tokenizer)
    if kind == "gguf":
        return lm.save(folder / "model.gguf", "Q8_0")
    if kind == "part":
        return _parts(lm.save(folder / "model.gguf", "Q8_0"))
    lm.save(folder)
    if kind == "index":
        tensors = {name: np.array(t) for name, t in safetensors.load_file(folder / "model.safetensors")[0].items()}
        (folder / "model.safetensors").unlink()
        safetensors.save_file(tensors, folder / "part.safetensors")
        (folder / FILES[kind]).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part.safetensors")}))
    return folder / FILES[kind]


def _parts(path: Path) -> Path:
    """Split a file in two, as llama.cpp's gguf-split does; the second is fuzzed."""
    import numpy as np

    from llmcore.formats.gguf import load_gguf
    from support.gguf_files import gguf

    file = load_gguf(path)
    numbers = {"F32": 0, "F16": 1, "Q8_0": 8}
    tensors = [(t.name, t.shape, numbers[t.type.name], t.data.tobytes()) for t in file.tensors.values()]
    # A part by itself says what it is; what is Python's here must have a type there.
    whole = {key: np.asarray(v) if isinstance(v, (bool, float)) else v for key, v in file.metadata.items()}
    whole = {key: np.uint32(v) if type(v) is int else v for key, v in whole.items()}
    whole = {key: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 else v for key, v in whole.items()}
    for number, some in enumerate((tensors[:4], tensors[4:])):
        own = {
            "split.no": np.uint16(number),
            "split.count": np.uint16(2),
            "split.tensors.count": np.int32(len(tensors)),
        }
        part = path.with_name(f"model-{number + 1:05}-of-00002.gguf")
        part.write_bytes(gguf(own if number else whole | own, some))
    path.unlink()
    return part


def target(kind: str) -> tuple[Callable[[bytes], None], bytes]:
    import numpy as np

    from llmcore.generate import load

    folder = Path(tempfile.mkdtemp())
    path = good_model(kind, folder)
    good = path.read_bytes()
    edit = edit_json if kind in ("config", "index") else edit_bytes
    opened = path if kind in ("gguf", "part") else folder

    def run(data: bytes) -> None:
        path.write_bytes(edit(good, Edits(data[1:])) if data[:1] == b"\0" else data)
        try:
            lm = load(opened, dtype="float32")
        except (ValueError, FileNotFoundError) as error:
            if str(folder) not in str(error) or "\n" in str(error):
                raise AssertionError("the error does not name the file in one line") from error
            return
        ids = np.array([[0, min(5, lm.config.vocab_size - 1)]])
        if lm.config.context >= 2 and lm.config.vocab_size * lm.config.width < 1 << 22:
            lm.model(ids)

    return run, good


def main() -> None:
    kind, *rest = sys.argv[1:]
    if rest[0] == "--replay":
        run, _ = target(kind)
        for file in sorted(Path(rest[1]).iterdir()):
            run(file.read_bytes())
        return
    import atheris

    corpus = Path(rest[0])
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["llmcore"]):
        run, good = target(kind)
    (corpus / "good").write_bytes(good)
    for number in range(8):
        (corpus / f"edits{number}").write_bytes(bytes([0, *range(number, 40 + number)]))
    atheris.Setup([sys.argv[0], *rest], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

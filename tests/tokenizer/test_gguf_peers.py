"""The same ids as llama.cpp gives for the same file."""

import random

import numpy as np
import pytest

from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.gguf_patterns import PRE
from support.gguf_files import gguf, vocabulary_metadata

pytestmark = pytest.mark.peers
SIZES = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32}
# No combining marks after letters and no wide spaces, where llama.cpp's categories are rougher than Unicode's.
PARTS = [
    "a",
    "Zed",
    "don't",
    "IT'S",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "1",
    "4567",
    "12345678",
    "!",
    "?!",
    "$+",
    "<=>",
    "é",
]
PARTS += [
    "Ünï",
    "日本",
    "カナ",
    "한국어",
    "Привет",
    "ไทย",
    "😀",
    "_",
    "-",
    "(x)",
    "/",
    "\u00a0",
    "²",
    "。",
    "…",
    "^",
    "~",
]


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


def opened(llama_cpp, path, fields):
    sizes = {f"llama.{name}": np.uint32(value) for name, value in SIZES.items()}
    heads = {"llama.attention.head_count": np.uint32(2), "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5)}
    path.write_bytes(gguf({"general.architecture": "llama", **sizes, **heads, **fields}))
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


@pytest.mark.parametrize("pre", list({pre: name for name, pre in reversed(PRE.items())}.values()))
def test_names_of_patterns(llama_cpp, tmp_path, pre):
    rng = random.Random(pre)
    texts = ["".join(rng.choices(PARTS, k=rng.randint(1, 14))) for _ in range(60)]
    trained = Tokenizer.train(iter(texts), 400, pattern=PRE[pre].pattern)
    fields = vocabulary_metadata(trained, pre) | {"tokenizer.ggml.add_bos_token": np.bool_(False)}
    theirs = opened(llama_cpp, tmp_path / "a.gguf", fields)
    ours = Tokenizer.load(tmp_path / "a.gguf")
    for text in texts:
        assert ours.encode(text) == theirs.tokenize(text.encode(), add_bos=False, special=False), text

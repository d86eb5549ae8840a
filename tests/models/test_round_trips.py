"""From transformers through llmcore to llama.cpp and back: every family, with a tokenizer of its own kind, gives the same
ids, the same greedy text and the same logits. Run as a program, it tries more texts and prints a table:

    python tests/models/test_round_trips.py [FAMILY...]
"""

import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import llmcore
from support.families import FAMILIES, save_family, some_text

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default"), pytest.mark.host]


class Trip(NamedTuple):
    """How many texts have the same ids in `tokenizers`, llmcore and llama.cpp (plain, with control tokens, and with what
    comes before a text), how many prompts the same greedy text, and how far logits are off after the way back."""

    plain: int
    special: int
    begun: int
    greedy: int
    different: int  # texts among them
    logits: float


def trip(name: str, folder: Path, texts: int, prompts: int, tokens: int) -> Trip:
    import llama_cpp
    import torch
    import transformers

    model, theirs = save_family(name, folder / "hf")
    lm = llmcore.load(folder / "hf", dtype="float32")
    file = lm.save(folder / "model.gguf", "F32")
    float32 = {"type_k": 0, "type_v": 0}  # the cache, which is in float16 otherwise
    cpp = llama_cpp.Llama(str(file), n_ctx=256, logits_all=True, verbose=False, n_threads=1, **float32)
    llmcore.load(file, dtype="float32").save(folder / "back")
    back = transformers.AutoModelForCausalLM.from_pretrained(folder / "back", attn_implementation="eager").eval()
    again = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "back" / "tokenizer.json"))
    rng = random.Random(name)
    specials = sorted({*lm.tokenizer.special_tokens, *lm.tokenizer.added_tokens})
    same = [0, 0, 0, 0]
    for _ in range(texts):
        text = some_text(rng)
        ids = theirs.encode(text, add_special_tokens=False).ids
        found = cpp.tokenize(text.encode(), add_bos=False, special=False)
        # What spells a control token is one to `tokenizers`, not to the others where they are not asked for it.
        if not any(special in text for special in specials):
            same[0] += ids == found == lm.tokenizer.encode_ordinary(text)
        else:
            same[0] += found == lm.tokenizer.encode_ordinary(text)
        text = some_text(rng, 6) + rng.choice(specials) + some_text(rng, 6)
        ids = theirs.encode(text, add_special_tokens=False).ids
        found = cpp.tokenize(text.encode(), add_bos=False, special=True)
        same[1] += ids == found == lm.tokenizer.encode(text, "all")
        text = "the" + text
        ids = theirs.encode(text).ids
        same[2] += ids == cpp.tokenize(text.encode(), add_bos=True, special=True) == again(text)["input_ids"]
    vocabulary, ends, answers, worst = llama_cpp.llama_model_get_vocab(cpp.model), {*lm.end_ids}, set(), 0.0
    for _ in range(prompts):
        ids = theirs.encode("the cat " + some_text(rng, 5)).ids
        batch = torch.tensor([ids])
        with torch.no_grad():
            before, after = model(batch).logits, back(batch).logits
            worst = max(worst, float((before - after).abs().max() / before.abs().max()))
            options = {"attention_mask": torch.ones_like(batch), "max_new_tokens": tokens, "do_sample": False}
            right = model.generate(batch, **options, pad_token_id=0)[0, len(ids) :].tolist()
        cpp.reset()
        cpp.eval(ids)
        answer: list[int] = []
        while len(answer) < tokens:
            token = int(np.argmax(cpp.scores[cpp.n_tokens - 1]))
            if llama_cpp.llama_vocab_is_eog(vocabulary, token):
                break
            answer.append(token)
            cpp.eval([token])
        ours = lm.generate(ids, tokens, temperature=0).tokens
        same[3] += answer == [t for t in right if t not in ends] == [t for t in ours if t not in ends]
        answers.add(tuple(answer))
    return Trip(*same, len(answers), worst)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_everywhere(name, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    found = trip(name, tmp_path, 20, 2, 8)
    assert found[:4] == (20, 20, 20, 2)
    assert found.different > 1
    assert found.logits < 1e-5


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"{'family':<12}  ids  special  begun  greedy  logits")
    for name in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            t = trip(name, Path(folder), 300, 20, 16)
        print(
            f"{name:<12} {t.plain:>4} {t.special:>8} {t.begun:>6} {t.greedy:>4}/20  {t.logits:.0e}"
            f"  ({t.different} answers)",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What ends a text: wherever files name it, in a folder and in a GGUF file, and from one to the other."""

import json

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.formats.gguf import load_gguf
from llmcore.generate import LanguageModel
from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.ends import GGUF_ALL, TURN_ENDS
from support.gguf_files import gguf

SPECIALS = ["<s>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_start|>", "<turn ends>", "<call ends>"]


def model_with(specials, rows=0):
    tokenizer = llmcore.Tokenizer.train(
        iter(["the cat sat on the mat"]), 256 + 8 + len(specials), special_tokens=specials
    )
    c = models.LlamaConfig(max(rows, tokenizer.vocab_size), 32, 32, 1, 2, tied=False)
    return LanguageModel(models.Llama(c, seed=1), tokenizer, chat_template=ChatTemplate("{{ messages }}"))


@pytest.fixture(scope="module")
def lm():
    return model_with(SPECIALS)


@pytest.fixture
def folder(lm, tmp_path):
    folder = lm.save(tmp_path / "model")
    for name in ("generation_config.json", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def change(path, **values):
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(old | values))


def ids_of(lm, *texts):
    return tuple(lm.tokenizer.special_tokens[text] for text in texts)


def test_every_file_of_a_folder_counts(lm, folder):
    assert llmcore.load(folder).end_ids == ()  # no <|endoftext|>
    text, turn, message, own = ids_of(lm, "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<turn ends>")
    change(folder / "config.json", eos_token_id=text)
    assert llmcore.load(folder).end_ids == (text,)
    change(folder / "special_tokens_map.json", eos_token={"content": "<|eot_id|>", "special": True})
    assert llmcore.load(folder).end_ids == (text, turn)
    change(folder / "special_tokens_map.json", eos_token="<|eom_id|>")
    change(folder / "tokenizer_config.json", eos_token="<|eot_id|>")
    assert llmcore.load(folder).end_ids == (text, turn)
    change(folder / "tokenizer_config.json", eos_token={"content": "<turn ends>", "special": True})
    change(folder / "generation_config.json", eos_token_id=[message, text])
    found = llmcore.load(folder)
    assert found.end_ids == (message, text, own)
    assert found.notes == ()


def test_what_ends_nothing_is_said(lm, folder):
    change(folder / "generation_config.json", eos_token_id=[3, lm.config.vocab_size])
    found = llmcore.load(folder)
    assert found.end_ids == (3,)
    assert found.notes == (
        f"eos_token_id of generation_config.json: {lm.config.vocab_size} is not an id of this model and ends nothing",
    )


@pytest.mark.parametrize("value", ["end", True, [1, "2"], [[1]], -1, {"id": 1}, 1.0])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_what_is_not_an_id(folder, name, value):
    change(folder / name, eos_token_id=value)
    with pytest.raises(ValueError, match=rf"{name}: expected eos_token_id an id or a list of ids"):
        llmcore.load(folder)


def test_a_broken_generation_config(folder):
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(ValueError, match=r"generation_config.json: expected JSON"):
        llmcore.load(folder)


@pytest.mark.parametrize(
    "ends",
    [
        ("<|end_of_text|>",),
        ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"),
        ("<|eot_id|>", "<|end_of_text|>"),
        ("<turn ends>",),
        ("<|end_of_text|>", "<turn ends>", "<call ends>", "<|eom_id|>"),
        (),
    ],
)
def test_there_and_back(lm, tmp_path, ends):
    """From a folder to GGUF, and from that to a folder."""
    lm.end_ids = ids_of(lm, *ends)
    found = llmcore.load(lm.save(tmp_path / "model.gguf"))
    if ends:
        assert set(found.end_ids) == set(lm.end_ids)
        assert found.end_ids[0] == lm.end_ids[0]
    again = llmcore.load(found.save(tmp_path / "again"))
    assert again.end_ids == found.end_ids


def fields(path):
    metadata = llmcore.formats.gguf.load_gguf(path).metadata
    return {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items() if "_token_id" in k and k != GGUF_ALL}


def test_readers_of_gguf_find_them(lm, tmp_path):
    """As llama.cpp does: in the fields for the ends of text, turn and message, and by the names that it knows."""
    text, turn, message, own, call = ids_of(
        lm, "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<turn ends>", "<call ends>"
    )
    lm.end_ids = (text, message, turn)
    written = fields(lm.save(tmp_path / "a.gguf"))
    assert (written["eos_token_id"], written["eot_token_id"], written["eom_token_id"]) == (text, turn, message)
    lm.end_ids = (text, call, own)
    path = lm.save(tmp_path / "b.gguf")
    assert (fields(path)["eos_token_id"], fields(path)["eot_token_id"]) == (text, call)
    metadata = llmcore.formats.gguf.load_gguf(path).metadata
    assert metadata[GGUF_ALL].tolist() == [text, call, own]  # a third has no field of its own


def test_a_file_of_another_writer(lm, tmp_path):
    """The fields that there are, and all control tokens with a name that ends turns."""
    lm.end_ids = ()
    file = llmcore.formats.gguf.load_gguf(lm.save(tmp_path / "model.gguf"))
    (own,) = ids_of(lm, "<turn ends>")
    kinds = {"F32": 0}
    tensors = [(t.name, t.shape, kinds[t.type.name], t.data.tobytes()) for t in file.tensors.values()]
    metadata = {
        k: np.uint32(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in file.metadata.items()
    }
    metadata = {k: np.float32(v) if isinstance(v, float) else v for k, v in metadata.items() if k != GGUF_ALL}
    path = tmp_path / "other.gguf"
    path.write_bytes(gguf(metadata | {"tokenizer.ggml.eot_token_id": np.uint32(own)}, tensors))
    named = ids_of(lm, "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")
    assert set(llmcore.load(path).end_ids) == {own, *named}
    path.write_bytes(gguf(metadata | {"tokenizer.ggml.eom_token_id": np.uint32(1 << 20)}, tensors))
    found = llmcore.load(path)
    assert set(found.end_ids) == set(named)
    assert "eom_token_id of other.gguf: 1048576 is not an id of this model" in found.notes[0]
    path.write_bytes(gguf(metadata | {"tokenizer.ggml.eot_token_id": "end"}, tensors))
    with pytest.raises(ValueError, match="eot_token_id an id or a list of ids, got 'end'"):
        llmcore.load(path)


def test_parts_of_a_message(tmp_path):
    """Where <|call|> and <|return|> end messages, <|end|> does not; where they are missing, it does."""
    for specials, ends in (
        (["<|end|>", "<|return|>", "<|call|>"], ["<|return|>", "<|call|>"]),
        (["<|end|>", "<|return|>"], ["<|end|>", "<|return|>"]),
        (["<|end|>", "<|tool_response>", "</s>"], ["<|end|>", "<|tool_response>"]),
    ):
        lm = model_with(specials)
        lm.end_ids = ids_of(lm, ends[0])
        path = lm.save(tmp_path / "model.gguf")
        data = path.read_bytes().replace(GGUF_ALL.encode(), GGUF_ALL.upper().encode())  # as if another had written it
        path.write_bytes(data)
        assert set(llmcore.load(path).end_ids) == set(ids_of(lm, *ends))


def test_names_are_tokens_only_once():
    assert len(set(TURN_ENDS)) == len(TURN_ENDS)


def test_other_tokens_of_a_role_are_kept(tmp_path):
    """Templates may name them, in GGUF by its own words."""
    lm = model_with([*SPECIALS, "<unk>", "<pad>"])
    template = ChatTemplate("{{ pad_token }}{{ unk_token }}", tokens={"pad_token": "<pad>", "unk_token": "<unk>"})
    made = LanguageModel(lm.model, lm.tokenizer, lm.end_ids, template)
    path = made.save(tmp_path / "model.gguf")
    metadata = load_gguf(path).metadata
    unknown, padding = ids_of(lm, "<unk>", "<pad>")
    assert metadata["tokenizer.ggml.unknown_token_id"] == unknown
    assert metadata["tokenizer.ggml.padding_token_id"] == padding
    tokens = llmcore.load(path).chat_template.tokens
    assert (tokens["unk_token"], tokens["pad_token"]) == ("<unk>", "<pad>")
